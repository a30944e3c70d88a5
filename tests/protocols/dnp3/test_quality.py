"""Flags and times, value by value, against the rules as docs/quality-and-time.md has them in words."""

from __future__ import annotations

import itertools

import pytest

from gatewayd.points import quality as q
from gatewayd.points.types import Kind, PointSpec
from gatewayd.protocols.dnp3 import config, quality

TYPES = ("BI", "DBI", "BO", "AI", "AO", "CT", "FC")


def expected(kind: str, flags: int) -> tuple[str, set[str], bool]:
    """Validity, flags and source of an octet, said again in another way."""
    online, restart, comm_lost, remote, local, bit5, bit6, _ = (bool(flags >> bit & 1) for bit in range(8))
    names: set[str] = set()
    invalid = questionable = False
    if not online:
        invalid = True
        names.add("failure")
    if restart:
        invalid = True
        names |= {"restart", "not-initialised"}
    if comm_lost:
        questionable = True
        names |= {"comm-lost", "old-data"}
    if remote:
        names.add("forced-remote")
    if local:
        names.add("forced-local")
    if bit5 and kind in ("BI", "DBI"):
        questionable = True
        names.add("chatter")
    if bit5 and kind in ("AI", "AO"):
        questionable = True
        names.add("over-range")
    if bit6 and kind in ("AI", "AO"):
        questionable = True
        names.add("reference-err")
    if bit6 and kind in ("CT", "FC"):
        names.add("discontinuity")
    return "invalid" if invalid else "questionable" if questionable else "good", names, remote or local


@pytest.mark.parametrize("kind", TYPES)
def test_all_256_flag_octets(kind: str) -> None:
    for flags in range(256):
        found = quality.COMMON[kind][flags]
        validity, names, substituted = expected(kind, flags)
        assert (q.validity(found), set(q.flags(found))) == (validity, names), f"{kind} {flags:#04x}"
        assert bool(found & q.SUBSTITUTED) is substituted
        assert not found & (q.TIME_MASK | q.TEST | q.BLOCKED)


@pytest.mark.parametrize(("kind", "state"), [("BI", 0x80), ("BO", 0x80), ("DBI", 0xC0)])
def test_the_state_is_no_quality(kind: str, state: int) -> None:
    for flags in range(256):
        assert quality.COMMON[kind][flags] == quality.COMMON[kind][flags & ~state]


def test_what_may_prove_something() -> None:
    assert q.usable(quality.common("BI", 0x01))
    assert q.usable(quality.common("CT", 0x41))
    assert not any(q.usable(quality.common("BI", flags)) for flags in (0x00, 0x03, 0x05, 0x09, 0x11, 0x21))


@pytest.mark.parametrize(
    ("kind", "group", "variation"),
    [("DBI", 3, 1), ("CT", 20, 5), ("CT", 20, 6), ("FC", 21, 9), ("FC", 21, 10), ("AI", 30, 3), ("AI", 30, 4)],
)
def test_objects_without_flags_are_questionable(kind: str, group: int, variation: int) -> None:
    table = quality.table(kind, group, variation)
    assert set(table) == {q.QUESTIONABLE | q.Q_ABSENT}


@pytest.mark.parametrize(("kind", "group"), [("BI", 1), ("BO", 10)])
def test_packed_binaries_imply_the_nominal_flags(kind: str, group: int) -> None:
    assert quality.table(kind, group, 1)[0x01] == quality.table(kind, group, 1)[0x81] == q.GOOD


def test_objects_with_flags_have_their_own() -> None:
    flagged = [("BI", 1, 2), ("BI", 2, 1), ("DBI", 3, 2), ("CT", 20, 1), ("FC", 21, 1), ("AI", 30, 1), ("AI", 32, 7)]
    for kind, group, variation in [*flagged, ("BO", 10, 2), ("AO", 40, 1), ("AO", 42, 3), ("FC", 21, 5), ("CT", 22, 5)]:
        assert quality.table(kind, group, variation) is quality.COMMON[kind]


WORDS = {
    "BI": "ONLINE RESTART COMM_LOST REMOTE_FORCED LOCAL_FORCED CHATTER_FILTER reserved STATE",
    "DBI": "ONLINE RESTART COMM_LOST REMOTE_FORCED LOCAL_FORCED CHATTER_FILTER STATE STATE",
    "BO": "ONLINE RESTART COMM_LOST REMOTE_FORCED LOCAL_FORCED reserved reserved STATE",
    "AI": "ONLINE RESTART COMM_LOST REMOTE_FORCED LOCAL_FORCED OVER_RANGE REFERENCE_ERR reserved",
    "AO": "ONLINE RESTART COMM_LOST REMOTE_FORCED LOCAL_FORCED OVER_RANGE REFERENCE_ERR reserved",
    "CT": "ONLINE RESTART COMM_LOST REMOTE_FORCED LOCAL_FORCED ROLLOVER DISCONTINUITY reserved",
    "FC": "ONLINE RESTART COMM_LOST REMOTE_FORCED LOCAL_FORCED ROLLOVER DISCONTINUITY reserved",
}
"""The eight bits of each flag octet as the object library has them, bit 0 first."""


@pytest.mark.parametrize("kind", TYPES)
def test_every_flag_has_its_name_in_all_256_octets(kind: str) -> None:
    spec = PointSpec(row=0, name="P", kind=Kind.ANALOG, device="R", address=f"{kind}:7")
    words = WORDS[kind].split()
    for flags in range(256):
        found = config.explain_native(spec, flags)
        assert found[0] == ("ONLINE" if flags & 1 else "ONLINE not set")
        rest = found[1:]
        if kind == "DBI":
            assert rest.pop() == f"STATE {flags >> 7}{flags >> 6 & 1}"
        known = [word for word in rest if "reserved" not in word]
        top = 6 if kind == "DBI" else 8
        set_bits = [bit for bit in range(1, top) if flags >> bit & 1]
        assert known == [words[bit] for bit in set_bits if words[bit] != "reserved"]
        assert [word for word in rest if "reserved" in word] == [
            f"reserved bit {bit}" for bit in set_bits if words[bit] == "reserved"
        ]


@pytest.mark.parametrize("address", ["OS:0", "", "BI:3|BI:4"])
def test_what_has_no_flags_of_its_own_has_no_names(address: str) -> None:
    spec = PointSpec(row=0, name="P", kind=Kind.STRING, device="R", address=address)
    assert config.explain_native(spec, 0) == []


SYNCHRONISED, UNSYNCHRONISED, NO_TIME = 1, 2, 0


@pytest.mark.parametrize(
    ("ts", "need"), list(itertools.product((SYNCHRONISED, UNSYNCHRONISED, NO_TIME), (False, True)))
)
def test_the_trust_of_a_time(ts: int, need: bool) -> None:
    bits = quality.time_bits(ts, need_time=need)
    assert bool(bits & q.RECEIPT) is (ts == NO_TIME)
    assert bool(bits & q.SYNC_NO) is (ts != NO_TIME and (need or ts == UNSYNCHRONISED))
    assert not bits & q.VALIDITY_MASK


S = 1_000_000_000
NOW = 1_800_000_000 * S


@pytest.mark.parametrize(
    ("time_ns", "last", "suspected"),
    [
        (NOW, None, False),
        (NOW + S, None, False),
        (NOW + S + 1, None, True),
        (NOW - 3600 * S, None, False),  # the first contact: everything may be backlog
        (NOW - 10 * S, NOW, False),
        (NOW - 10 * S - 1, NOW, True),
        (NOW - 3600 * S, NOW - 3700 * S, False),  # gathered while the device was away
        (0, None, True),  # 1970: a clock never set
        (NOW, NOW, False),
    ],
)
def test_times_that_cannot_be_right(time_ns: int, last: int | None, suspected: bool) -> None:
    assert quality.suspect(time_ns, NOW, last) is suspected
