"""What a check of `gatewayd doctor` finds."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Severity(StrEnum):
    """OK, something better to know, and something that breaks what the gateway promises."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


class Finding(msgspec.Struct, frozen=True):
    """check: what was looked at; found: what it is like; do: what to do about it, "" where nothing is to do."""

    check: str
    severity: Severity
    found: str
    do: str = ""


def ok(check: str, found: str) -> Finding:
    return Finding(check, Severity.OK, found)


def warning(check: str, found: str, do: str) -> Finding:
    return Finding(check, Severity.WARNING, found, do)


def broken(check: str, found: str, do: str) -> Finding:
    return Finding(check, Severity.BROKEN, found, do)
