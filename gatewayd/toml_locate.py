"""Where each key and value of a TOML text stands. tomllib does not say, and people need line and column.

Works on text that tomllib has accepted, so it has to find its way but need not judge: tables, arrays of tables,
dotted and quoted keys, inline tables, arrays, all four forms of strings, comments.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from typing import NamedTuple

Path = tuple[str | int, ...]
"""Keys and array indexes from the top: `("device", 1, "dnp3", "port")`."""


class Place(NamedTuple):
    """Line and column, from 1."""

    line: int
    column: int


class Places:
    """Places by path. A path that does not exist is at its nearest parent: a missing key at its table's header."""

    def __init__(self, keys: dict[Path, Place], values: dict[Path, Place]) -> None:
        self._keys = keys
        self._values = values

    def key(self, path: Path) -> Place:
        """Where the key itself stands."""
        return self._keys.get(path) or self.value(path)

    def value(self, path: Path) -> Place:
        """Where the value begins."""
        while path:
            if found := self._values.get(path):
                return found
            path = path[:-1]
        return Place(1, 1)


def locate(text: str) -> Places:
    """Index a TOML text (valid; line ends as tomllib reads them)."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return Places(scanner.keys, scanner.values)


_SPACE = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_KEY_PART = re.compile(r'"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|[^\s.=\[\]"\'#]+')
_STRINGS = (
    re.compile(r'"""(?:\\.|(?!""")[^\\])*"""(?:"{0,2})', re.DOTALL),
    re.compile(r"'''(?:(?!''').)*'''(?:'{0,2})", re.DOTALL),
    re.compile(r'"(?:\\.|[^"\\\n])*"'),
    re.compile(r"'[^'\n]*'"),
)
_BARE = re.compile(r"[^,\]}\n#]*")


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._counts: dict[Path, int] = {}
        self.keys: dict[Path, Place] = {}
        self.values: dict[Path, Place] = {}

    def _place(self, at: int) -> Place:
        line = bisect_right(self._starts, at)
        return Place(line, at - self._starts[line - 1] + 1)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def document(self) -> None:
        table: Path = ()
        self._skip(_SPACE)
        while self._peek():
            table = self._header() if self._peek() == "[" else self._pair(table)
            self._skip(_SPACE)

    def _header(self) -> Path:
        begin = self._at
        array = self._text.startswith("[[", begin)
        self._at += 2 if array else 1
        parts = self._key()
        self._at += 2 if array else 1
        path: Path = ()
        for depth, part in enumerate(parts):
            path += (part,)
            if array and depth == len(parts) - 1:
                self._counts[path] = self._counts.get(path, -1) + 1
            if path in self._counts:
                path += (self._counts[path],)
        self.values.setdefault(path, self._place(begin))
        return path

    def _key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._skip(_BLANK)
            match = _KEY_PART.match(self._text, self._at)
            if match is None:
                return parts
            part = match[0]
            parts.append(tomllib.loads(f"k={part}")["k"] if part[0] in "\"'" else part)
            self._at = match.end()
            self._skip(_BLANK)
            if self._peek() != ".":
                return parts
            self._at += 1

    def _pair(self, table: Path) -> Path:
        """One `key = value`; gives back the table, for the caller's next pair."""
        begin = self._at
        path = table
        for part in self._key():
            path += (part,)
            self.keys.setdefault(path, self._place(begin))
            self.values.setdefault(path, self._place(begin))  # of `a.b = 1`, what stands for a
        self._skip(_BLANK)
        self._at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)
        return table

    def _value(self, path: Path) -> None:
        self.values[path] = self._place(self._at)
        opening = self._peek()
        if opening == "[":
            self._items(path, "]")
        elif opening == "{":
            self._items(path, "}")
        else:
            begin = self._at
            for pattern in (*_STRINGS, _BARE):
                self._skip(pattern)
                if self._at > begin:
                    return
            self._at += 1  # never reached in valid text; never stand still in any other

    def _items(self, path: Path, closing: str) -> None:
        """An array's values or an inline table's pairs."""
        self._at += 1
        index = 0
        while True:
            self._skip(_SPACE)
            if self._peek() in (closing, ""):
                self._at += 1
                return
            if self._peek() == ",":
                self._at += 1
                continue
            if closing == "}":
                self._pair(path)
            else:
                self._value((*path, index))
                index += 1
