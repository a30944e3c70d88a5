"""Commands that look at a running gateway through the broker, and the demo."""

from __future__ import annotations

import click

from gatewayd.cli.options import broker_options, broker_settings, run_console


@click.command(short_help="Watch points live.")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--device", "devices", multiple=True, help="Only points of this device; may be given several times.")
@click.option("--once", is_flag=True, help="Print the station as it is and end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line: now with --once, else each change.")
@click.option(
    "--wait", "wait_s", default=5.0, show_default=True, help="Seconds to wait for the broker and the gateway."
)
@broker_options
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
    return run_console(watch(broker_settings(broker), Filter(devices, patterns), once=once, form=form, wait_s=wait_s))


@click.command(short_help="A broker, three simulated devices and the gateway, live.")
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
    return run_console(demo(port=port, seconds=seconds))


@click.command(short_help="Say why a point has the quality it has.")
@click.argument("point")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option(
    "--wait", "wait_s", default=5.0, show_default=True, help="Seconds to wait for the broker and the gateway."
)
@broker_options
def explain(point: str, *, as_json: bool, wait_s: float, **broker: str) -> int:
    """Say why a point has the quality it has: what the device said, the rules that followed, the link, the clock.

    \b
    Exit status: 0 the point is usable, 1 it is not (interlocks and feedback do not rely on it), 2 no such point,
    3 no broker, no gateway or no answer.
    """
    from gatewayd.console.explain import explain

    return run_console(explain(broker_settings(broker), point, as_json=as_json, wait_s=wait_s))


@click.command(short_help="The whole gateway on one screen, and what needs attention.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option(
    "--wait", "wait_s", default=5.0, show_default=True, help="Seconds to wait for the broker and the gateway."
)
@broker_options
def status(*, as_json: bool, wait_s: float, **broker: str) -> int:
    """Show links, points, journal, clock, selects, tags, forced points, certificates and processes on one screen.

    What needs attention stands at the end, a line each.

    \b
    Exit status: 0 nothing needs attention, 1 something does, 3 no broker, no gateway or no answer.
    """
    from gatewayd.console.status import status

    return run_console(status(broker_settings(broker), as_json=as_json, wait_s=wait_s))
