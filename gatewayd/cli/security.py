"""Commands about who did what, and who is who: the audit trail, operators' keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gatewayd.cli.options import config_option

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path, dir_okay=False)


def state_option(function: F) -> F:
    return click.option(
        "--state-dir",
        type=click.Path(path_type=Path, exists=True),
        help="The folder with the journal, for instance a backup. Left out: the configuration's state_dir.",
    )(function)


@click.group(short_help="Who commanded what, and what came of it: show, verify, export.")
def audit() -> None:
    """The audit trail of this gateway: commands, refusals, tags, rights, configurations, starts and stops.

    Each record is hashed together with the hash before it, so that a change or a hole shows. May be used while the
    gateway runs.

    \b
    Exit status: 0 fine, 1 verify found something wrong, 2 the trail cannot be read.
    """


@audit.command("show", short_help="Show the newest records.")
@click.option("--last", type=click.IntRange(min=0), default=50, show_default=True, help="So many at most; 0 is all.")
@click.option("--who", default="", help="Only this operator's.")
@click.option("--point", default="", help="Only of this point.")
@click.option("--what", default="", help="Only this kind: select, outcome, refused, tag-set, rights, start, crash …")
@click.option("--json", "as_json", is_flag=True, help="The records as they are stored, one JSON object a line.")
@config_option
@state_option
def audit_show(
    config_path: Path, state_dir: Path | None, *, last: int, who: str, point: str, what: str, as_json: bool
) -> int:
    """Show the newest records, oldest of them first. A ~ behind the time: the clock was not synchronised.

    \b
    Exit status: 0, or 2 where the trail cannot be read.
    """
    from gatewayd.engineering.audit import Wanted, show

    return show(config_path, state_dir, Wanted(last, who, point, what), as_json=as_json)


@audit.command("verify", short_help="Follow the chain of hashes.")
@click.option("--head", "words", multiple=True, metavar="N:HASH", help="A published head that must be in it.")
@click.option("--heads", "file", type=FILE, help="File with what was heard on <base>/audit, a message a line.")
@click.option("--export", "exported", type=FILE, help="Verify this export instead of the trail on this gateway.")
@config_option
@state_option
def audit_verify(
    config_path: Path, state_dir: Path | None, *, words: tuple[str, ...], file: Path | None, exported: Path | None
) -> int:
    """Follow the chain of hashes from the oldest record to the newest, and compare it with published heads.

    The chain shows what was changed, removed or put elsewhere. That the end was cut off, or all of it exchanged,
    shows only against heads that somebody else has kept:

    \b
    mosquitto_sub -V 5 -h broker -t gw/riverside/audit >> heads      (on another machine)
    gatewayd audit verify --heads heads

    \b
    Exit status: 0 whole, 1 something is wrong (each fault is a line), 2 it cannot be read.
    """
    from gatewayd.engineering.audit import heads, verify

    try:
        seen = heads(words, file)
    except OSError as error:
        raise click.UsageError(f"--heads: {file} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise click.UsageError(f"--head: {error}") from None
    return verify(config_path, state_dir, seen, exported)


@audit.command("export", short_help="Write the records with their hashes.")
@click.argument("out", type=FILE, required=False)
@click.option(
    "--from", "first", type=click.IntRange(min=1), default=1, show_default=True, help="Number of the first record."
)
@config_option
@state_option
def audit_export(config_path: Path, state_dir: Path | None, out: Path | None, *, first: int) -> int:
    """Write all records to a new file OUT, or to standard output: one JSON object a line, its hash as `chain`.

    \b
    Exit status: 0, or 2 where the trail cannot be read or the file not be written.
    """
    from gatewayd.engineering.audit import export

    return export(config_path, state_dir, out, first)


@click.group(short_help="Make an operator's key pair for signed commands.")
def keys() -> None:
    """Keys with which operators sign their commands (Ed25519).

    \b
    Exit status: 0 done, 1 not (it is said why).
    """


OPERATOR = click.option("--operator", default="", help="Whose it is, as in the rights file.")


@keys.command("new", short_help="Make a key pair.")
@click.argument("file", type=FILE)
@OPERATOR
def keys_new(file: Path, operator: str) -> int:
    """Make a key pair: the private key into FILE (mode 0600, nothing is overwritten), and the line for the rights file.

    \b
    gatewayd keys new alice.pem --operator alice
    gatewayd control --key alice.pem FDR12/CB/POS open

    \b
    Exit status: 0 made, 1 not.
    """
    from gatewayd.engineering.keys import new

    return new(file, operator)


@keys.command("show", short_help="Show the public part of a key.")
@click.argument("file", type=FILE)
@OPERATOR
def keys_show(file: Path, operator: str) -> int:
    """Show the line for the rights file that belongs to the private key in FILE.

    \b
    Exit status: 0 shown, 1 it is no such key.
    """
    from gatewayd.engineering.keys import show

    return show(file, operator)
