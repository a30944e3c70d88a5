"""Commands on the gateway itself, which read its configuration."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gatewayd.cli.options import config_option, run_async, say


@click.command(short_help="Run the gateway.")
@config_option
@click.option("--in-process", is_flag=True, help="Drivers in this process instead of workers: for debugging only.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least important lines to be logged.",
)
def run(config_path: Path, *, in_process: bool, log_level: str) -> int:
    """Run the gateway in the foreground, as systemd does.

    SIGHUP reads the configuration again; with a mistake in it the old one stays in force. SIGTERM or Ctrl-C ends:
    commands are refused, open ones get their outcome, the journal is written.

    \b
    Exit status: 0 ended as asked, 1 the configuration has mistakes or the daemon could not start.
    """
    from gatewayd import log
    from gatewayd.daemon import run as run_daemon

    log.configure(log_level)
    return run_async(run_daemon(config_path, in_process=in_process, log_level=log_level))


@click.command(short_help="Show every mistake in the configuration and the point lists.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def check(config_path: Path, *, as_json: bool) -> int:
    """Read the configuration and all point lists and show every mistake at once. Opens no connection.

    A mistake is shown as file:line:column: what was found; what is allowed.

    \b
    Exit status: 0 no mistakes, 1 mistakes.
    """
    from gatewayd import config
    from gatewayd.engineering import report

    try:
        loaded = config.load(config_path, config.Purpose.CHECK)
    except config.ConfigError as error:
        return say(json.dumps(report.mistakes(error)) if as_json else str(error), 1)
    return say(json.dumps(report.summary(loaded)) if as_json else report.summary_text(loaded), 0)


@click.command(short_help="Show the points as understood and how devices will be read.")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object with points and read plans.")
def points(config_path: Path, *, as_json: bool) -> int:
    """Show the points as understood, and how each device will be read. Opens no connection.

    For Modbus the plan lists every request with its registers, so that you see what one poll costs.

    \b
    Exit status: 0, or 1 where the configuration has mistakes (shown as by check).
    """
    from gatewayd import config
    from gatewayd.engineering import report

    try:
        loaded = config.load(config_path)
    except config.ConfigError as error:
        return say(json.dumps(report.mistakes(error)) if as_json else str(error), 1)
    return say(json.dumps(report.points_json(loaded)) if as_json else report.points_text(loaded), 0)


@click.group(short_help="Show and check certificates, or make some to try TLS with.", invoke_without_command=True)
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
@click.pass_context
def certs(context: click.Context, config_path: Path, *, as_json: bool) -> int:
    """Show every certificate, key and revocation list that the configuration names, and what is wrong with each.

    \b
    gatewayd certs
    gatewayd certs new-lab FOLDER localhost rtu1     (an authority and certificates, for trying only)

    \b
    Exit status: 0 nothing is wrong, 1 something is, or the configuration has mistakes.
    """
    from gatewayd.engineering.certs import show

    return 0 if context.invoked_subcommand else show(config_path, as_json=as_json)


@certs.command("new-lab", short_help="Make a lab authority and certificates.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def new_lab(folder: Path, names: tuple[str, ...]) -> int:
    """Make an authority, an empty revocation list, and a certificate and key for each host NAME or address.

    For trying only: the authority's key lies in the same FOLDER as the others. Nothing is overwritten.

    \b
    Exit status: 0 made, 1 something is there already or cannot be written.
    """
    from gatewayd.engineering.certs import new_lab

    return new_lab(folder, names)
