"""The command line; no logic. Exit statuses are said in each command's help; 64 is a command line not understood."""

from __future__ import annotations

import asyncio
import getpass
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from gatewayd import __version__

F = TypeVar("F", bound=Callable[..., Any])

USAGE = 64
"""Exit status of a command line that was not understood; 1 to 3 mean something else here (EX_USAGE of sysexits.h)."""
INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gatewayd")
def cli() -> None:
    """A substation gateway: DNP3, IEC 61850 and Modbus devices onto MQTT, and select-before-operate back.

    \b
    On the gateway:   check, points, run
    At a console:     watch, control   (they talk to the broker, wherever it is)
    To try it:        demo
    """


def _config(function: F) -> F:
    return click.option(
        "-c",
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path("/etc/gatewayd/gatewayd.toml"),
        show_default=True,
        help="The station's configuration.",
    )(function)


def _broker(function: F) -> F:
    """The options of everything that talks to the broker."""
    path = click.Path(dir_okay=False)
    for option in reversed(
        (
            click.option(
                "--url", default="mqtt://127.0.0.1:1883", envvar="GATEWAYD_URL", show_default=True, show_envvar=True,
                help="The broker; mqtts:// for TLS.",
            ),
            click.option(
                "--base", default="", envvar="GATEWAYD_BASE", show_envvar=True,
                help="The gateway's base topic. Left out: the only gateway that has reported under gw/.",
            ),
            click.option("--username", default="", envvar="GATEWAYD_USERNAME", show_envvar=True, help="Our login."),
            click.option("--password-file", default="", type=path, help="File with the password."),
            click.option("--ca-file", default="", type=path, help="CA of the broker, for mqtts://."),
            click.option("--cert-file", default="", type=path, help="Our own certificate, for mqtts://."),
            click.option("--key-file", default="", type=path, help="The key of our certificate."),
        )
    ):  # fmt: skip
        function = option(function)
    return function


@cli.command(short_help="Run the gateway.")
@_config
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
    return _asyncio(run_daemon(config_path, in_process=in_process))


@cli.command(short_help="Show every mistake in the configuration and the point lists.")
@_config
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
        loaded = config.load(config_path)
    except config.ConfigError as error:
        return _say(json.dumps(report.mistakes(error)) if as_json else str(error), 1)
    return _say(json.dumps(report.summary(loaded)) if as_json else report.summary_text(loaded), 0)


@cli.command(short_help="Show the points as understood and how devices will be read.")
@_config
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
        return _say(json.dumps(report.mistakes(error)) if as_json else str(error), 1)
    return _say(json.dumps(report.points_json(loaded)) if as_json else report.points_text(loaded), 0)


@cli.command(short_help="Watch points live.")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--device", "devices", multiple=True, help="Only points of this device; may be given several times.")
@click.option("--once", is_flag=True, help="Print the station as it is and end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: now with --once, else each change.")
@click.option(
    "--wait", "wait_s", default=5.0, show_default=True, help="Seconds to wait for the broker and the gateway."
)
@_broker
def watch(
    patterns: tuple[str, ...], devices: tuple[str, ...], *, once: bool, as_json: bool, wait_s: float, **broker: str
) -> int:
    """Watch points live: value, quality, time and age, with the state of each device's link.

    PATTERN chooses points by name, with * and ?: 'FDR12/*' '*/CB/POS'. Quality is what is to be believed: a point of
    a device whose link is down, or of a gateway that is offline, is not shown as good. A ~ behind the time
    means: not from a device's clock that is known to be in step. Ctrl-C ends.

    \b
    Exit status: 0, 1 with --once when not everything had come in time, 3 no broker or no gateway there.
    """
    from gatewayd.console.view import Filter
    from gatewayd.console.watch import Form, watch

    form = Form.JSON if as_json else Form.TABLE
    return _console(watch(_settings(broker), Filter(devices, patterns), once=once, form=form, wait_s=wait_s))


@cli.command(short_help="Command one point: select, ask, operate, outcome.")
@click.argument("point")
@click.argument("value")
@click.option("--yes", is_flag=True, help="Do not ask before the operate. For scripts.")
@click.option("--cancel", is_flag=True, help="Select, then cancel: tries everything up to the operate.")
@click.option("--direct", is_flag=True, help="Without select, for points with control = direct.")
@click.option("--test", is_flag=True, help="Mark the command as a test, for devices that know the difference.")
@click.option(
    "--operator", default="", help="Who you are, a level of the topic. Left out: the login, else your user name."
)
@click.option("--json", "as_json", is_flag=True, help="Each step as one JSON object a line; needs --yes or --cancel.")
@click.option(
    "--wait", "wait_s", default=5.0, show_default=True, help="Seconds to wait for the broker and the gateway."
)
@_broker
def control(
    point: str, value: str, *, yes: bool, cancel: bool, direct: bool, test: bool, operator: str, as_json: bool,
    wait_s: float, **broker: str,
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
    from gatewayd.mqtt.contract import sound_name

    if cancel and direct:
        raise click.UsageError("--cancel and --direct exclude each other: without a select there is nothing to cancel")
    if as_json and not yes and not cancel:
        raise click.UsageError("--json asks no questions: give --yes or --cancel too")
    who = operator or broker["username"] or getpass.getuser()
    if not sound_name(who):
        raise click.UsageError(f"{who!r} cannot be an operator's name; 1 to 64 letters, digits and . _ @ - are allowed")
    how = How.SELECT_CANCEL if cancel else How.DIRECT if direct else How.SELECT_OPERATE
    order = Order(point, value, who, how=how, yes=yes, test=test, json=as_json)
    return _console(control(_settings(broker), order, wait_s=wait_s))


@cli.command(short_help="A broker, three simulated devices and the gateway, live.")
@click.option(
    "--seconds", type=float, envvar="DEMO_SECONDS", show_envvar=True, help="End after so long. Left out: Ctrl-C."
)
@click.option(
    "--port",
    default=18830,
    envvar="DEMO_MQTT_PORT",
    show_default=True,
    show_envvar=True,
    help="The demo broker's port.",
)
def demo(seconds: float | None, port: int) -> int:
    """Start a broker, three simulated devices and the gateway on this machine, and show live values.

    With --seconds it ends by itself: it then also opens the breaker by select-before-operate and prints how many
    points are good per device, how many events and state messages were published, and the outcome of the command.
    Needs the source checkout, where the simulators are: make demo.

    \b
    Exit status: 0 all was as it should be, 1 something was not (it is said), 3 the demo could not start.
    """
    from gatewayd.console.demo import demo
    from gatewayd.console.mqtt import quiet_logs

    quiet_logs()
    return _console(demo(port=port, seconds=seconds))


def _settings(broker: dict[str, str]) -> Any:
    """The broker options as the settings of a connection; a mistake in them is one of the command line."""
    from gatewayd.console.mqtt import quiet_logs
    from gatewayd.mqtt.settings import MqttSettings, check

    settings = MqttSettings(**{key: value for key, value in broker.items() if value})  # type: ignore[arg-type]
    if mistakes := check(settings):
        raise click.UsageError("; ".join(f"--{key.replace('_', '-')}: {text}" for key, text in mistakes))
    quiet_logs()
    return settings


def _say(text: str, status: int) -> int:
    click.echo(text)
    return status


def _asyncio(work: Coroutine[Any, Any, int]) -> int:
    try:
        return int(asyncio.run(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


def _console(work: Coroutine[Any, Any, int]) -> int:
    from gatewayd.console.terminal import ended_by_sigterm

    return _asyncio(ended_by_sigterm(work))


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
