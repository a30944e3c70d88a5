"""The columns of a point list and what may stand in a cell of each: one small parser a column. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from gatewayd.points.types import ControlMode, Kind, LockScope
from gatewayd.problems import listed, shown, suggestion

LONGEST_NAME = 200
"""Octets of a point's name, which becomes part of topics."""


class CellError(ValueError):
    """What is wrong with a cell, and how far into it."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\Z", re.ASCII)
_YES_NO = {"yes": True, "no": False, "true": True, "false": False, "1": True, "0": False}
_BAD_IN_NAME = re.compile(r"[+#$\s'\"\\|\x00-\x1f\x7f-\x9f]")


def _text(text: str) -> str:
    for at, char in enumerate(text):
        if not char.isprintable():
            raise CellError(f"found {shown(text)}; unprintable characters are not allowed", at)
    return text


def _name(text: str) -> str:
    if len(text.encode()) > LONGEST_NAME:
        raise CellError(f"found a name of {len(text.encode())} octets; at most {LONGEST_NAME} are allowed")
    if bad := _BAD_IN_NAME.search(text):
        raise CellError(
            f"found {shown(bad[0])} in {shown(text)}; not allowed are + # $ | \\ quotes and spaces", bad.start()
        )
    if "" in text.split("/"):
        at = text.find("//") + 1 if "//" in text else 0
        raise CellError(f"found an empty level in {shown(text)}; a name is a path such as FDR12/CB/POS", at)
    return _text(text)


def _float(text: str) -> float:
    if not _NUMBER.match(text):
        hint = "; write it with a decimal point" if _NUMBER.match(text.replace(",", ".")) else ""
        raise CellError(f"found {shown(text)}; a number is allowed{hint}")
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise CellError(f"found {shown(text)}; the number is too large")
    return number


def _between(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = _float(text)
        if not low <= number <= high:
            raise CellError(f"found {shown(text)}; {low:g} to {high:g} seconds is allowed")
        return number

    return parse


def _not_negative(text: str) -> float:
    number = _float(text)
    if number < 0:
        raise CellError(f"found {shown(text)}; 0 or more is allowed")
    return number


def _scale(text: str) -> float:
    number = _float(text)
    if number == 0:
        raise CellError(f"found {shown(text)}; any number but 0 is allowed")
    return number


def _milliseconds(text: str) -> int:
    if not text.isdecimal() or int(text) > 60_000:
        raise CellError(f"found {shown(text)}; whole milliseconds from 0 to 60000 are allowed")
    return int(text)


def _yes_no(text: str) -> bool:
    answer = _YES_NO.get(text.lower())
    if answer is None:
        raise CellError(f"found {shown(text)}; yes or no is allowed")
    return answer


def _one_of(words: type[Kind | ControlMode | LockScope]) -> Callable[[str], Any]:
    allowed = {word.value: word for word in words}

    def parse(text: str) -> Any:
        word = allowed.get(text.lower())
        if word is None:
            raise CellError(f"found {shown(text)}; allowed are {listed(allowed)}{suggestion(text.lower(), allowed)}")
        return word

    return parse


def _states(text: str) -> dict[int, str]:
    states: dict[int, str] = {}
    at = 0
    for part in re.split(r"([;,])", text):
        if part not in (";", ",") and part.strip():
            code, equals, name = part.partition("=")
            code, name = code.strip(), name.strip()
            if not equals or not re.fullmatch(r"-?\d{1,9}", code, re.ASCII) or not name:
                raise CellError(f"found {shown(part.strip())}; allowed is code=text;code=text, as in 0=off;1=on", at)
            if int(code) in states:
                raise CellError(f"found the code {code} twice; each code has one text", at)
            if name.casefold() in (other.casefold() for other in states.values()):
                raise CellError(f"found the text {shown(name)} twice; each text has one code", at)
            states[int(code)] = _text(name)
        at += len(part)
    return states


def _deadband(text: str) -> tuple[float, float]:
    """(absolute, percent)"""
    if text.endswith("%"):
        percent = _not_negative(text[:-1].strip())
        if percent > 100:
            raise CellError(f"found {shown(text)}; 0% to 100% is allowed")
        return 0.0, percent
    return _not_negative(text), 0.0


def _checks(text: str) -> tuple[str, ...]:
    words = tuple(word for word in re.split(r"[\s,;+|]+", text.lower()) if word)
    for word in words:
        if word not in ("interlock", "synchro"):
            allowed = ("interlock", "synchro")
            raise CellError(f"found {shown(word)}; allowed are {listed(allowed)}{suggestion(word, allowed)}")
    return tuple(dict.fromkeys(words))


PARSERS: dict[str, Callable[[str], Any]] = {
    "point": _name,
    "kind": _one_of(Kind),
    "address": _text,
    "unit": _text,
    "scale": _scale,
    "offset": _float,
    "invert": _yes_no,
    "states": _states,
    "deadband": _deadband,
    "event": _yes_no,
    "control": _one_of(ControlMode),
    "command": _text,
    "feedback": _text,
    "feedback_timeout_s": _between(0.2, 600),
    "tolerance": _not_negative,
    "min": _float,
    "max": _float,
    "select_timeout_s": _between(2, 120),
    "bay": _text,
    "local": _text,
    "lock_scope": _one_of(LockScope),
    "check": _checks,
    "guard": _text,
    "readback": _yes_no,
    "interlock": _text,
    "area": _text,
    "description": _text,
    "settle_ms": _milliseconds,
}
"""By column name: text to value. A CellError says what was found and what is allowed."""
