"""Commands for tags and inhibits: through the broker, as any other operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gatewayd.cli.command import operator_options, place_of
from gatewayd.cli.options import run_console

KINDS = ("information", "caution", "control-inhibit", "personal-lock")
JSON = click.option("--json", "as_json", is_flag=True, help="JSON.")
NOTE = click.option("--note", default="", help="Why, for others to read; 256 characters at most.")
FORCE = click.option("--force", is_flag=True, help="Remove another's personal lock; a SECADM may.")


@click.group(short_help="Hang tags on points, bays, devices or the gateway: list, set, remove.")
def tag() -> None:
    """Hang tags on a point, a bay, a device or the whole gateway, take them away, show them.

    \b
    information, caution   are read; a caution is read out to whoever selects the point
    control-inhibit        forbids every command
    personal-lock          forbids every command; only whoever set it removes it (a SECADM with --force)

    \b
    Exit status: 0 done, 1 refused, 3 no broker, no gateway or no answer.
    """


@tag.command("list", short_help="Show the tags and inhibits that hang.")
@click.argument("where", default="")
@JSON
@operator_options
def tag_list(where: str, **options: Any) -> int:
    """Show all tags and inhibits that hang, those on WHERE (bay/F12), or all that concern a point (FDR12/CB/POS).

    \b
    Exit status: 0 shown (also when there are none), 3 no broker or no gateway has reported.
    """
    return _show(None, where, **options)


@tag.command("set", short_help="Hang one.")
@click.argument("kind", type=click.Choice(KINDS), metavar="KIND")
@click.argument("where")
@NOTE
@JSON
@operator_options
def tag_set(kind: str, where: str, note: str, **options: Any) -> int:
    """Hang a tag on WHERE: a point's name, bay/BAY, device/DEVICE or gateway.

    KIND is information, caution, control-inhibit or personal-lock.

    \b
    gatewayd tag set personal-lock bay/F12 --note 'earthing at DS'
    gatewayd tag set caution FDR12/CB/POS --note 'spring motor weak'

    Selects it forbids end at once. The answer has the tag's id, with which it is removed.

    \b
    Exit status: 0 it hangs, 1 refused, 3 no broker, no gateway or no answer: look with gatewayd tag list.
    """
    return _hang("tag", kind, where, note, **options)


@tag.command("remove", short_help="Take one away.")
@click.argument("what")
@FORCE
@JSON
@operator_options
def tag_remove(what: str, *, force: bool, **options: Any) -> int:
    """Take a tag away. WHAT is its id, or what it hangs on where only one hangs there.

    \b
    Exit status: 0 it is gone, 1 refused, 3 no broker, no gateway or no answer: look with gatewayd tag list.
    """
    return _take("tag", what, force=force, **options)


@click.group(short_help="Take control away from points, bays, devices or the gateway: on, off, list.")
def inhibit() -> None:
    """Take control away from a point, a bay, a device or the whole gateway, and give it back.

    \b
    Exit status: 0 done, 1 refused, 3 no broker, no gateway or no answer.
    """


@inhibit.command("on", short_help="Take control away.")
@click.argument("where")
@NOTE
@JSON
@operator_options
def inhibit_on(where: str, note: str, **options: Any) -> int:
    """Take control away from WHERE: a point's name, bay/BAY, device/DEVICE or gateway. Selects there end at once.

    \b
    gatewayd inhibit on gateway --note 'storm'
    gatewayd inhibit on device/FDR12

    \b
    Exit status: 0 control is taken away, 1 refused, 3 no broker, no gateway or no answer: look with inhibit list.
    """
    return _hang("inhibit", "", where, note, **options)


@inhibit.command("off", short_help="Give control back.")
@click.argument("what")
@JSON
@operator_options
def inhibit_off(what: str, **options: Any) -> int:
    """Take an inhibit away. WHAT is its id, or what it hangs on where only one hangs there.

    \b
    Exit status: 0 it is gone, 1 refused, 3 no broker, no gateway or no answer: look with inhibit list.
    """
    return _take("inhibit", what, force=False, **options)


@inhibit.command("list", short_help="Show the inhibits that hang.")
@click.argument("where", default="")
@JSON
@operator_options
def inhibit_list(where: str, **options: Any) -> int:
    """Show all inhibits, those on WHERE (bay/F12), or all that concern a point (FDR12/CB/POS).

    \b
    Exit status: 0 shown (also when there are none), 3 no broker or no gateway has reported.
    """
    return _show("inhibit", where, **options)


def _hang(
    which: str, kind: str, where: str, note: str, *, as_json: bool, operator: str, key: Path | None, wait_s: float,
    **broker: str,
) -> int:  # fmt: skip
    from gatewayd.console.tagging import Which, hang

    place = place_of(operator, key, wait_s, broker)
    return run_console(hang(place, Which(which), kind, where, note, as_json=as_json))


def _take(
    which: str, what: str, *, force: bool, as_json: bool, operator: str, key: Path | None, wait_s: float,
    **broker: str,
) -> int:  # fmt: skip
    from gatewayd.console.tagging import Which, take

    place = place_of(operator, key, wait_s, broker)
    return run_console(take(place, Which(which), what, force=force, as_json=as_json))


def _show(
    which: str | None, where: str, *, as_json: bool, operator: str, key: Path | None, wait_s: float, **broker: str
) -> int:
    from gatewayd.console.tagging import Which, show

    place = place_of(operator, key, wait_s, broker)
    return run_console(show(place, None if which is None else Which(which), where, as_json=as_json))
