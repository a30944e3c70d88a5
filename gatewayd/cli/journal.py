"""`gatewayd journal`: looking at the journal on the gateway itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gatewayd.cli.options import config_option

F = TypeVar("F", bound=Callable[..., Any])


def _time(_: click.Context, __: click.Parameter, text: str) -> int | None:
    """RFC 3339 to UTC ns."""
    from gatewayd.mqtt.requests import parse_time

    try:
        return parse_time(text) if text else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _where(function: F) -> F:
    """The options that say which journal."""
    path = click.Path(path_type=Path)
    option = click.option("--file", type=path, help="A journal's file or folder itself; no configuration is read.")
    return config_option(option(function))


@click.group(short_help="Look at the journal: where it stands, its events, whether it is sound.")
def journal() -> None:
    """Look at the journal on the gateway itself, while the daemon runs and while it does not. Changes nothing.

    \b
    gatewayd journal info      epoch, numbers, consumers, size
    gatewayd journal export    events as JSON lines, by number or by time
    gatewayd journal verify    read every record and say what is wrong

    A journal that was moved aside (journal-unreadable-….db) is looked at with --file.

    \b
    Exit status: 0 as asked, 1 something is wrong or missing, 2 it cannot be looked at: not there, of another
    version, not readable for this user, or the configuration has mistakes.
    """


@journal.command(short_help="Where the journal stands.")
@_where
@click.option("--json", "as_json", is_flag=True, help="One JSON object; times in nanoseconds since 1970, UTC.")
def info(config_path: Path, *, file: Path | None, as_json: bool) -> int:
    """Show the epoch, the numbers kept and handed over, how far each consumer is, and the size.

    \b
    Exit status: 0, or 2 where it cannot be read.
    """
    from gatewayd.engineering.journal import info

    return info(config_path, file, as_json=as_json)


@journal.command(short_help="Read every record and say what is wrong.")
@_where
@click.option("--json", "as_json", is_flag=True, help="One JSON object: ok, place, wrong.")
def verify(config_path: Path, *, file: Path | None, as_json: bool) -> int:
    """Read the whole file: its pages, every event, the numbers between, the marks. Some seconds a million events.

    \b
    Exit status: 0 nothing is wrong, 1 something is, 2 it cannot be looked at.
    """
    from gatewayd.engineering.journal import verify

    return verify(config_path, file, as_json=as_json)


@journal.command(short_help="Events as JSON lines.")
@_where
@click.option("--from", "first", type=click.IntRange(1), help="First number; left out: the oldest kept.")
@click.option("--to", "last", type=click.IntRange(1), help="Last number; left out: the newest.")
@click.option(
    "--since", metavar="TIME", callback=_time, default="", help="Recorded at or after this: 2026-11-24T01:02:03Z."
)
@click.option("--until", metavar="TIME", callback=_time, default="", help="Recorded at or before this.")
def export(
    config_path: Path, *, file: Path | None, first: int | None, last: int | None, since: int | None, until: int | None
) -> int:
    """Write events to standard output, oldest first, one JSON object a line, as consumers get them.

    Times are when the gateway recorded the events, not their own. What is missing of the numbers asked for is
    said on standard error.

    \b
    Exit status: 0 all that was asked for, 1 some of it is missing or could not be written, 2 nothing can be read.
    """
    from gatewayd.engineering.journal import export
    from gatewayd.store.inspect import Range

    wanted = Range(first, last, since, until)
    if wanted.empty:
        raise click.UsageError("the range ends before it begins")
    return export(config_path, file, wanted, sys.stdout.buffer)
