"""The protocols by name. Configuration modules are pure and may be imported anywhere; drivers only in a worker."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from gatewayd.points.types import PointSpec
from gatewayd.protocols.device import Device, Mistake
from gatewayd.protocols.driver import Driver

PROTOCOLS = ("dnp3", "iec61850", "modbus")


class Configuration(Protocol):
    """What a protocol's config.py offers."""

    DEFAULT_PORT: int
    """TCP port when none is given."""

    Options: type
    """The typed struct of `[device.<protocol>]`; unknown keys forbidden."""

    def check(self, device: Device) -> list[Mistake]:
        """Every mistake in addresses, commands and options; opens nothing."""

    def plan(self, device: Device) -> list[str]:
        """How the device will be read, one line a request or scan, for `gatewayd points`."""

    def own_feedback(self, device: Device) -> frozenset[int]:
        """Rows whose control is its own feedback (an IEC 61850 controllable object); no `feedback` column needed."""

    def answer_s(self, device: Device) -> float:
        """Seconds until the answer to a command is in or has failed to come; the desk waits at least so long."""

    def explain_native(self, point: PointSpec, native: int) -> list[str]:
        """The device's own words in `Sample.native`, by their names in the standard; empty where it has none."""

    def needs_select(self, device: Device) -> frozenset[int]:
        """Rows whose select is held at the device (IEC 61850 SBO); the gateway holds all others."""


def configuration(protocol: str) -> Configuration:
    """The protocol's config module. Raises KeyError for a protocol that does not exist."""
    if protocol not in PROTOCOLS:
        raise KeyError(protocol)
    return cast(Configuration, import_module(f"gatewayd.protocols.{protocol}.config"))


def create(device: Device) -> Driver:
    """A driver for the device. Imports the protocol's native stack: call it in a worker process only."""
    if device.protocol not in PROTOCOLS:
        raise KeyError(device.protocol)
    module = import_module(f"gatewayd.protocols.{device.protocol}.driver")
    return cast(Driver, module.create(device))
