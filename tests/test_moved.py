"""Which changes of a configuration are a reason to connect to a device anew."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gatewayd.daemon import moved
from gatewayd.points.types import Kind, LockScope, PointSpec
from gatewayd.protocols.device import Device


def device(row: int = 0, host: str = "10.1.1.12", **more: Any) -> Device:
    spec = PointSpec(row=row, name="FDR12/CB/POS", kind=Kind.BINARY, device="FDR12", address="BI:1")
    return Device(name="FDR12", protocol="dnp3", host=host, points=(msgspec.structs.replace(spec, **more),))


@pytest.mark.parametrize(
    "change",
    [
        {"select_timeout_s": 20.0}, {"feedback_timeout_s": 60.0}, {"interlock": "on('A')"}, {"local": "on('B')"},
        {"lock_scope": LockScope.BAY}, {"bay": "F12"}, {"area": "riverside"}, {"description": "Breaker"},
        {"file": "other.csv", "line": 7},
    ],
)  # fmt: skip
def test_what_is_the_desks_alone_leaves_the_link_alone(change: dict[str, Any]) -> None:
    assert moved(device(), device(**change)) == 0
    assert moved(device(), device(row=3, **change)) == 3


@pytest.mark.parametrize(
    "change", [{"address": "BI:2"}, {"command": "CROB:1"}, {"event": True}, {"scale": 2.0}, {"host": "10.1.1.13"}]
)
def test_what_a_driver_uses_is_a_reason(change: dict[str, Any]) -> None:
    assert moved(device(), device(**change)) is None
