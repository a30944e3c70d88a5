"""Logging: structlog to standard error, one line when something breaks and one when it heals.

Under systemd the journal adds time and host, so lines carry the level as a kernel prefix (`<4>`) and no time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_PREFIX = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}
SECRET = ("password", "secret", "token", "private_key")
"""Parts of field names whose values never reach a log."""


def _hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        if any(word in key.lower() for word in SECRET):
            event[key] = "***"
    return event


def _journal_line(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    level = event.pop("level", "info")
    name = event.pop("logger", "gatewayd")
    text = event.pop("event", "")
    fields = " ".join(f"{key}={value!r}" if " " in str(value) else f"{key}={value}" for key, value in event.items())
    return f"{_PREFIX.get(level, '<6>')}{name}: {text}{' ' if fields else ''}{fields}"


def configure(level: str = "info") -> None:
    """Set up logging for a process; `level` is debug, info, warning or error."""
    under_systemd = bool(os.environ.get("JOURNAL_STREAM"))
    processors: list[Any] = [structlog.processors.add_log_level, _hide_secrets]
    if under_systemd:
        processors.append(_journal_line)
    else:
        processors += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


class Trouble:
    """Says once that something broke and once that it healed, per key; nothing in between."""

    def __init__(self, logger: Any) -> None:
        self._log = logger
        self._broken: dict[str, str] = {}

    def broke(self, key: str, why: str, **fields: Any) -> None:
        """Log when the key was fine before, or when the cause is a new one."""
        if self._broken.get(key) != why:
            self._broken[key] = why
            self._log.warning(why, **fields)

    def healed(self, key: str, text: str, **fields: Any) -> None:
        """Log when the key was broken before."""
        if self._broken.pop(key, None) is not None:
            self._log.info(text, **fields)
