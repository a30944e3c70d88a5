"""Commands that command: through the broker, as any other operator."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gatewayd.cli.options import broker_options, broker_settings, run_console

F = TypeVar("F", bound=Callable[..., Any])


def operator_options(function: F) -> F:
    """The options of whoever asks something of the desk: who he is, his key, and his patience."""
    for option in reversed(
        (
            click.option(
                "--operator", default="",
                help="Who you are, a level of the topic. Left out: the login, else your user name.",
            ),
            click.option(
                "--key", "key", type=click.Path(path_type=Path, dir_okay=False), envvar="GATEWAYD_KEY",
                show_envvar=True, help="Sign with this private key (gatewayd keys new).",
            ),
            click.option(
                "--wait", "wait_s", default=5.0, show_default=True,
                help="Seconds to wait for the broker and the gateway.",
            ),
        )
    ):  # fmt: skip
        function = option(function)
    return broker_options(function)


def place_of(operator: str, key: Path | None, wait_s: float, broker: dict[str, str]) -> Any:
    """Who asks where; a mistake in it is one of the command line."""
    from gatewayd.config_tables import exposed
    from gatewayd.console.operator import Place
    from gatewayd.control.keys import KeyFileError, SigningKey
    from gatewayd.mqtt.contract import sound_name

    who = operator or broker["username"] or getpass.getuser()
    if not sound_name(who):
        raise click.UsageError(f"{who!r} cannot be an operator's name; 1 to 64 letters, digits and . _ @ - are allowed")
    if key is not None and (trouble := exposed(key)):
        raise click.UsageError(f"--key: {key}: {trouble}")
    try:
        signing = SigningKey.read(key) if key is not None else None
    except KeyFileError as error:
        raise click.UsageError(f"--key: {error}") from None
    return Place(broker_settings(broker), who, signing, wait_s)


@click.command(short_help="Command one point: select, ask, operate, outcome.")
@click.argument("point")
@click.argument("value")
@click.option("--yes", is_flag=True, help="Do not ask before the operate. For scripts.")
@click.option("--cancel", is_flag=True, help="Select, then cancel: tries everything up to the operate.")
@click.option("--direct", is_flag=True, help="Without select, for points with control = direct.")
@click.option(
    "--test",
    is_flag=True,
    help="IEC 61850: with the Test bit. Other protocols know no test of a command: select, then cancel.",
)
@click.option("--json", "as_json", is_flag=True, help="Each step as one JSON object a line; needs --yes or --cancel.")
@operator_options
def control(
    point: str, value: str, *, yes: bool, cancel: bool, direct: bool, test: bool, operator: str, key: Path | None,
    as_json: bool, wait_s: float, **broker: str,
) -> int:  # fmt: skip
    """Command one point: show it, select, ask, operate, show the outcome.

    \b
    gatewayd control FDR12/CB/POS open
    gatewayd control --yes TR1/TAP raise
    gatewayd control -- FDR12/SET/Q -2.5       (a value that begins with a minus)

    Nothing is ever sent twice, and a select that is not operated is cancelled.

    \b
    Exit status:
      0  carried out and proved by the feedback; or accepted by a device that has no feedback; or cancelled as asked
      1  refused, or you said no: nothing has moved
      2  not known, or not as asked: IT MAY HAVE MOVED, look before you try again
      3  no broker, no gateway or no answer; nothing was operated
    """
    from gatewayd.console.control import How, Order, control

    if cancel and direct:
        raise click.UsageError("--cancel and --direct exclude each other: without a select there is nothing to cancel")
    if as_json and not yes and not cancel:
        raise click.UsageError("--json asks no questions: give --yes or --cancel too")
    place = place_of(operator, key, wait_s, broker)
    how = How.SELECT_CANCEL if cancel else How.DIRECT if direct else How.SELECT_OPERATE
    order = Order(point, value, place.operator, how=how, yes=yes, test=test, json=as_json, key=place.key)
    return run_console(control(place.settings, order, wait_s=wait_s))


@click.command(short_help="Select and cancel every controllable point; operates nothing.")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--yes", is_flag=True, help="Do not ask before it begins. For scripts.")
@click.option("--test", is_flag=True, help="Ask for each select as a test: for people who may test but not operate.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a point; needs --yes.")
@operator_options
def sweep(
    patterns: tuple[str, ...], *, yes: bool, test: bool, operator: str, key: Path | None, as_json: bool,
    wait_s: float, **broker: str,
) -> int:  # fmt: skip
    """Select and cancel every controllable point, one after the other, and show what each device answered.

    \b
    gatewayd sweep
    gatewayd sweep 'FDR12/*'

    Nothing is operated. An IEC 61850 device holds the select itself, so its answer is a proof up to the device. DNP3
    and Modbus have no select that could wait for a person: there it says "gates passed, not proved at device".

    \b
    Exit status:
      0  every select was taken and cancelled
      1  at least one was refused (it is said), there was no such point, or you said no
      3  no broker, no gateway or no answer
    """
    from gatewayd.console.sweep import sweep

    if as_json and not yes:
        raise click.UsageError("--json asks no questions: give --yes too")
    place = place_of(operator, key, wait_s, broker)
    return run_console(sweep(place, patterns, yes=yes, test=test, as_json=as_json))


@click.command(short_help="End the HOLD of a point after a look at it.")
@click.argument("point")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@operator_options
def clear(
    point: str, *, operator: str, key: Path | None, as_json: bool, wait_s: float, **broker: str
) -> int:  # fmt: skip
    """End the HOLD that an uncertain outcome left on a point. Sends nothing to the device.

    Look at the switch first: a HOLD means that it may have moved, or may still move.

    \b
    Exit status: 0 it is not held any more, 1 refused, 3 no broker, no gateway or no answer.
    """
    from gatewayd.console.tagging import clear

    return run_console(clear(place_of(operator, key, wait_s, broker), point, as_json=as_json))
