"""Commands that command: through the broker, as any other operator."""

from __future__ import annotations

import getpass

import click

from gatewayd.cli.options import broker_options, broker_settings, run_console


@click.command(short_help="Command one point: select, ask, operate, outcome.")
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
@broker_options
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
    return run_console(control(broker_settings(broker), order, wait_s=wait_s))
