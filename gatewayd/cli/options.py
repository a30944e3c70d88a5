"""Options that several commands share, and how a command's work is run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130


def config_option(function: F) -> F:
    return click.option(
        "-c",
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        default=Path("/etc/gatewayd/gatewayd.toml"),
        show_default=True,
        help="The station's configuration.",
    )(function)


def broker_options(function: F) -> F:
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


def broker_settings(broker: dict[str, str]) -> Any:
    """The broker options as the settings of a connection; a mistake in them is one of the command line."""
    from gatewayd.console.mqtt import quiet_logs
    from gatewayd.mqtt.settings import MqttSettings, check

    settings = MqttSettings(**{key: value for key, value in broker.items() if value})  # type: ignore[arg-type]
    if mistakes := check(settings):
        raise click.UsageError("; ".join(f"--{key.replace('_', '-')}: {text}" for key, text in mistakes))
    quiet_logs()
    return settings


def say(text: str, status: int) -> int:
    click.echo(text)
    return status


def run_async(work: Coroutine[Any, Any, int]) -> int:
    try:
        return int(asyncio.run(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


def run_console(work: Coroutine[Any, Any, int]) -> int:
    from gatewayd.console.terminal import ended_by_sigterm

    return run_async(ended_by_sigterm(work))
