"""Tags and inhibits: what people hang on a point, a bay, a device or the gateway. Pure.

An inhibit takes control away. A tag says why: `information` and `caution` are read, `control-inhibit` and
`personal-lock` forbid every command to what they hang on, to their owner too. Whoever set a personal lock takes it
away; a SECADM can, with `force`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from urllib.parse import quote

import msgspec

from gatewayd.points.types import PointSpec
from gatewayd.problems import listed, shown, suggestion

MOST_TAGS = 1000
"""Tags and inhibits of the whole gateway."""
MOST_ON_ONE = 30
"""On one point, bay or device, so that its retained message stays below 64 KiB."""
LONGEST_NOTE = 256
GATEWAY = "gateway"


class TagKind(StrEnum):
    """What a tag does."""

    INFORMATION = "information"
    CAUTION = "caution"
    CONTROL_INHIBIT = "control-inhibit"
    PERSONAL_LOCK = "personal-lock"
    INHIBIT = "inhibit"
    """Not a tag by its topic (`cmd/<operator>/inhibit`), but kept beside them."""


TAGS = (TagKind.INFORMATION, TagKind.CAUTION, TagKind.CONTROL_INHIBIT, TagKind.PERSONAL_LOCK)


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """One tag or inhibit. on: `gateway`, `device/<device>`, `bay/<bay>` or `point/<point>`; time_ns: UTC."""

    id: str
    kind: TagKind
    on: str
    owner: str
    note: str = ""
    time_ns: int = 0

    def describe(self) -> str:
        """For people: `personal-lock 3f9a on bay/F12 by alice: earthing at DS`."""
        return f"{self.kind} {self.id} on {self.on} by {self.owner}{f': {self.note}' if self.note else ''}"


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a tag or inhibit request wants: to set one (`kind`, `on`, `note`), or to remove one (`remove`, `force`)."""

    kind: TagKind = TagKind.INFORMATION
    on: str = ""
    note: str = ""
    remove: str = ""
    force: bool = False


def wish(body: Mapping[str, object], *, inhibit: bool) -> Wish:
    """The wish in a request's JSON object. Raises ValueError: what was found and what is allowed."""
    allowed = {"tx", "expires_at", "on", "note", "remove", "force"} | (set() if inhibit else {"set"})
    for key in body:
        if key not in allowed:
            raise ValueError(f"unknown key {shown(key)}{suggestion(key, allowed)}")
    remove = _text(body, "remove", 64)
    force = body.get("force", False)
    if force not in (True, False):
        raise ValueError("force is not true or false")
    if remove:
        if len(body.keys() & {"set", "on", "note"}):
            raise ValueError("found remove together with set, on or note; one of both is allowed")
        return Wish(remove=remove, force=force is True)
    kind = TagKind.INHIBIT
    if not inhibit:
        word = _text(body, "set", 64)
        if word not in TAGS:
            raise ValueError(f"set: found {shown(word)}; {listed(TAGS)} is allowed{suggestion(word, TAGS)}")
        kind = TagKind(word)
    on = _text(body, "on", 300)
    if not on:
        raise ValueError("on is missing; gateway, device/<device>, bay/<bay> or point/<point> is needed")
    return Wish(kind=kind, on=on, note=_text(body, "note", LONGEST_NOTE))


def _text(body: Mapping[str, object], key: str, longest: int) -> str:
    value = body.get(key, "")
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise ValueError(f"{key} is not a text of at most {longest} printable characters")
    return value


def keys(spec: PointSpec) -> tuple[str, ...]:
    """Everything a tag can hang on that concerns this point."""
    bay = (f"bay/{spec.bay}",) if spec.bay else ()
    return (GATEWAY, f"device/{spec.device}", *bay, f"point/{spec.name}")


def topic(on: str) -> str:
    """The end of the retained topic; characters no topic may have are written %XX."""
    return "".join(quote(c, safe="") if c in "+#$%" or not c.isprintable() else c for c in on)


def concerned(on: str, specs: Iterable[PointSpec]) -> list[PointSpec]:
    """The published points a tag on this would concern."""
    return [spec for spec in specs if not spec.contact and on in keys(spec)]


class Board:
    """All tags and inhibits that hang, by what they hang on."""

    def __init__(self, tags: Iterable[Tag] = ()) -> None:
        self._by_id: dict[str, Tag] = {}
        self._on: dict[str, list[Tag]] = {}
        for tag in tags:
            self.put(tag)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Tag]:
        return iter(self._by_id.values())

    def get(self, id: str) -> Tag | None:  # noqa: A002  (the tag's own word)
        """A tag by its id."""
        return self._by_id.get(id)

    def on(self, key: str) -> list[Tag]:
        """What hangs there itself."""
        return self._on.get(key, [])

    def of(self, spec: PointSpec) -> list[Tag]:
        """What concerns a point, wherever it hangs."""
        return [tag for key in keys(spec) for tag in self._on.get(key, ())] if self._by_id else []

    def put(self, tag: Tag) -> None:
        """Hang one."""
        self._by_id[tag.id] = tag
        self._on.setdefault(tag.on, []).append(tag)

    def take(self, id: str) -> None:  # noqa: A002
        """Take one away."""
        tag = self._by_id.pop(id)
        self._on[tag.on] = [one for one in self._on[tag.on] if one.id != id]
        if not self._on[tag.on]:
            del self._on[tag.on]
