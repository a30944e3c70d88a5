"""Logging: structlog, one line when something breaks and one when it heals.

Where systemd's journal reads our standard error, lines go to it natively, with the fields GATEWAYD_DEVICE=,
GATEWAYD_POINT=, GATEWAYD_TX= and so on; everywhere else they are text with a time. Workers do the same by themselves.
What comes from outside (a device's words, a topic) is escaped: it can neither forge a line nor steer a terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from gatewayd import journald
from gatewayd.problems import printable

_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog's, by our levels."""
SECRET = ("password", "secret", "token", "private_key", "select_id")
"""Parts of field names whose values never reach a log."""

_journal: journald.Journal | None = None
"""The process's own, where there is one."""


def _hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key in event:
        if any(word in key.lower() for word in SECRET):
            event[key] = "***"
    return event


def _escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            lines = value.split("\n") if key == "exception" else [value]
            event[key] = "\n".join(printable(line) for line in lines)
    return event


def _for_journal(logger: Any, __: str, event: MutableMapping[str, Any]) -> tuple[tuple[dict[str, str]], dict[str, Any]]:
    """The fields of one line: MESSAGE has everything as text, as without a journal."""
    level = event.pop("level", "info")
    text = str(event.pop("event", ""))
    trace = event.pop("exception", "")
    words = "".join(f" {key}={_quoted(value)}" for key, value in event.items())
    return (
        {
            "MESSAGE": f"{text}{words}" + (f"\n{trace}" if trace else ""),
            "PRIORITY": str(_PRIORITY.get(level, 6)),
            "SYSLOG_IDENTIFIER": "gatewayd",
            "GATEWAYD_PART": logger.name,
            **{f"GATEWAYD_{_field(key)}": str(value) for key, value in event.items()},
        },
    ), {}


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if " " in text else text


def _field(key: str) -> str:
    return re.sub(r"[^A-Z0-9_]", "_", key.upper())[:50]


class _ToJournal:
    """What structlog hands finished lines to; one for each part of the program."""

    def __init__(self, name: str, journal: journald.Journal) -> None:
        self.name = name
        self._journal = journal

    def msg(self, fields: dict[str, str]) -> None:
        if not self._journal.send(fields):
            # The journal reads this too; the prefix is the line's priority: sd-daemon(3).
            lines = fields["MESSAGE"].split("\n")
            print(*(f"<{fields['PRIORITY']}>{line}" for line in lines), sep="\n", file=sys.stderr, flush=True)

    debug = info = warning = error = critical = msg


def configure(level: str = "info", *, socket: str = journald.SOCKET) -> None:
    """Set up logging for a process; `level` is debug, info, warning or error. socket: the journal's, for tests."""
    processors: list[Any] = [
        structlog.processors.add_log_level,
        _hide_secrets,
        structlog.processors.format_exc_info,
        _escape,
    ]
    factory: Callable[..., Any]
    global _journal
    if journald.reads(sys.stderr):
        journal = _journal = journald.Journal(socket)
        processors.append(_for_journal)

        def factory(name: str = "gatewayd", *_: Any) -> _ToJournal:
            return _ToJournal(name, journal)
    else:
        processors += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=True),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ]
        factory = structlog.PrintLoggerFactory(sys.stderr)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )


def counters() -> dict[str, int]:
    """Lines of this process that the journal did not take."""
    return {"lines_lost": _journal.lost if _journal is not None else 0}


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
