"""Mistakes people can make in configuration files: where, what was found, what is allowed; all of them at once."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple


class Problem(NamedTuple):
    """One mistake. Line and column count from 1; of a spreadsheet they are row and column."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used. `mistakes` has every mistake of all files; str() is one line for each."""

    def __init__(self, mistakes: Iterable[Problem]) -> None:
        self.mistakes = list(mistakes)
        super().__init__("\n".join(str(mistake) for mistake in self.mistakes))


def suggestion(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean "port"?` for a word close to an allowed one, else nothing."""
    found = get_close_matches(word, list(allowed), n=1, cutoff=0.7)
    return f'; did you mean "{found[0]}"?' if found else ""


def listed(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *head, last = words
    return f"{', '.join(head)} or {last}" if head else last


def printable(text: str) -> str:
    """The text with unprintable characters escaped, so that a hostile file cannot steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(value: object, limit: int = 60) -> str:
    """A value as found, in double quotes, cut where it is long and with unprintable characters escaped."""
    text = str(value)
    return f'"{printable(text[:limit])}{"…" if len(text) > limit else ""}"'
