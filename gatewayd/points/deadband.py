"""Whether a new value differs enough from the last one sent. Quality changes always pass: that is the caller's part."""

from __future__ import annotations

from gatewayd.points.types import PointSpec, Value


def passes(spec: PointSpec, last_sent: Value, value: Value) -> bool:
    """True where the value is to be sent.

    A number passes when it is further from the last sent one than `deadband` (engineering units) or
    `deadband_percent` of the last sent value; without a deadband, and for all that is no number, every change passes.
    """
    if value == last_sent:
        return False
    if not spec.deadband and not spec.deadband_percent:
        return True
    if not isinstance(value, (int, float)) or not isinstance(last_sent, (int, float)):
        return True
    return abs(value - last_sent) > (spec.deadband or abs(last_sent) * spec.deadband_percent / 100)
