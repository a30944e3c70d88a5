"""The command line; no logic. Exit statuses are said in each command's help; 64 is a command line not understood."""

from __future__ import annotations

import sys

import click

from gatewayd import __version__
from gatewayd.cli import command, doctor, journal, security, station, tagging, watching
from gatewayd.cli.options import INTERRUPTED

USAGE = 64
"""Exit status of a command line that was not understood; 1 to 3 mean something else here (EX_USAGE of sysexits.h)."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gatewayd")
def cli() -> None:
    """A substation gateway: DNP3, IEC 61850 and Modbus devices onto MQTT, and select-before-operate back.

    \b
    On the gateway:   check, doctor, points, certs, journal, audit, keys, run
    At a console:     watch, status, explain, control, sweep, tag, inhibit, clear
                      (they talk to the broker, wherever it is)
    To try it:        demo
    """


COMMANDS: tuple[click.Command, ...] = (
    station.run, station.check, station.points, station.certs,
    journal.journal, doctor.doctor,
    security.audit, security.keys,
    watching.watch, watching.explain, watching.status,
    command.control, command.sweep, command.clear, tagging.tag, tagging.inhibit,
    watching.demo,
)  # fmt: skip
for one in COMMANDS:
    cli.add_command(one)


def main() -> None:
    """The entry point: runs one command and exits with its status."""
    try:
        status = cli.main(prog_name="gatewayd", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        status = USAGE
    except click.ClickException as error:
        error.show()
        status = 1
    except click.Abort:
        status = INTERRUPTED
    except BrokenPipeError:  # `gatewayd points | head`
        sys.stderr.close()
        status = 0
    sys.exit(status if isinstance(status, int) else 0)
