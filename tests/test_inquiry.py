"""Why a point is as it is: said in words, from what the intake knows."""

from __future__ import annotations

from typing import Any

import pytest

from gatewayd import inquiry
from gatewayd.points import quality as q
from gatewayd.points.contacts import ContactPair
from gatewayd.points.crosscheck import Derived
from gatewayd.points.database import Database
from gatewayd.points.expressions import compile_expression
from gatewayd.points.intake import Intake
from gatewayd.points.types import Batch, Kind, Link, PointSpec, Sample
from gatewayd.protocols.registry import PROTOCOLS

NOW = 1_800_000_000_000_000_000
SECOND = 1_000_000_000


def spec(row: int, name: str, kind: Kind, address: str, **more: Any) -> PointSpec:
    return PointSpec(row=row, name=name, kind=kind, device=more.pop("device", "BAY1"), address=address, **more)


SPECS = [
    spec(0, "P", Kind.ANALOG, "BAY1LD0/MMXU1.TotW"),
    spec(1, "CB", Kind.DOUBLE, "BI:3|BI:4", event=True),
    spec(2, "CB#open", Kind.BINARY, "BI:3", contact=True),
    spec(3, "CB#closed", Kind.BINARY, "BI:4", contact=True),
    spec(4, "SUM", Kind.ANALOG, "= v('P') + 1", device="station", derived=True),
]


@pytest.fixture
def intake() -> Intake:
    names = {one.name for one in SPECS}
    derived = [Derived(4, compile_expression("v('P') + 1", names))]
    return Intake(Database(SPECS), [ContactPair(1, 2, 3, 100)], derived)


def explained(intake: Intake, name: str, link: Link = Link.UP, protocol: str = "iec61850") -> dict[str, Any]:
    now = inquiry.LinkNow(link, NOW, "refused" if link is Link.DOWN else "")
    return inquiry.explain(intake.database, name, now, protocol, None)


def test_a_point_never_read_says_so(intake: Intake) -> None:
    found = explained(intake, "P", Link.CONNECTING)
    assert (found["quality"], found["usable"], found["value"]) == ("invalid", False, None)
    assert any("never been read" in reason for reason in found["reasons"])
    assert "native" not in found
    assert "last_good" not in found


def test_the_devices_own_words_since_when_and_what_was_good_before(intake: Intake) -> None:
    intake.link("BAY1", Link.UP, NOW)
    intake.apply(Batch("BAY1", [Sample(0, 12.5, 0, 0, NOW)], NOW))
    bad = q.QUESTIONABLE | q.CHATTER | q.OSCILLATORY
    intake.apply(Batch("BAY1", [Sample(0, 99.0, bad, 0b100011, NOW + SECOND)], NOW + 2 * SECOND))
    found = explained(intake, "P")
    assert (found["quality"], found["flags"]) == ("questionable", ["chatter", "oscillatory"])
    assert found["native"] == {"bits": "0x23", "names": ["validity questionable", "oscillatory"]}
    assert found["since"] == "2027-01-15T08:00:02.000Z"
    assert found["last_good"] == {"value": 12.5, "t": "2027-01-15T08:00:00.000Z"}
    assert len(found["reasons"]) == 2


@pytest.mark.parametrize(
    ("protocol", "kind", "address", "quality", "native", "names"),
    [
        (
            "iec61850",
            Kind.ANALOG,
            "LD0/MMXU1.TotW",
            q.QUESTIONABLE | q.OLD_DATA,
            0x83,
            ["validity questionable", "oldData"],
        ),
        ("dnp3", Kind.BINARY, "BI:7", q.QUESTIONABLE | q.CHATTER, 0xA1, ["ONLINE", "CHATTER_FILTER", "STATE"]),
        ("dnp3", Kind.DOUBLE, "DBI:0", q.INVALID | q.FAILURE, 0x80, ["ONLINE not set", "STATE 10"]),
        ("dnp3", Kind.ANALOG, "AI:3", q.INVALID | q.RESTART | q.NOT_INITIALISED, 0x03, ["ONLINE", "RESTART"]),
        ("dnp3", Kind.COUNTER, "CT:0", q.GOOD | q.DISCONTINUITY, 0x41, ["ONLINE", "DISCONTINUITY"]),
        (
            "dnp3",
            Kind.ANALOG,
            "AI:4",
            q.QUESTIONABLE | q.Q_ABSENT,
            0x01,
            None,
        ),  # the octet is opendnp3's, not the device's
        ("modbus", Kind.ANALOG, "HR:9", q.INVALID | q.CONFIG_ERROR, 0x02, ["exception 02 illegal-data-address"]),
        ("modbus", Kind.ANALOG, "HR:9", q.GOOD | q.SAMPLED, 0, None),
        ("something-else", Kind.ANALOG, "x", q.QUESTIONABLE, 1, None),
    ],
)
def test_each_protocol_has_its_own_words(
    protocol: str, kind: Kind, address: str, quality: int, native: int, names: list[str] | None
) -> None:
    intake = Intake(Database([spec(0, "P", kind, address)]), [], [])
    intake.link("BAY1", Link.UP, NOW)
    intake.apply(Batch("BAY1", [Sample(0, 1, quality, native, NOW)], NOW))
    found = explained(intake, "P", protocol=protocol)
    assert found.get("native", {}).get("names") == names


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_point_never_read_has_no_words_in_any_protocol(protocol: str) -> None:
    for kind, address in ((Kind.BINARY, "BI:1"), (Kind.STRING, "OS:0"), (Kind.ANALOG, "HR:1")):
        assert "native" not in explained(
            Intake(Database([spec(0, "P", kind, address)]), [], []), "P", protocol=protocol
        )


def test_a_double_of_two_contacts_leaves_the_words_to_its_contacts(intake: Intake) -> None:
    intake.link("BAY1", Link.UP, NOW)
    bad = q.QUESTIONABLE | q.CHATTER
    intake.apply(Batch("BAY1", [Sample(2, False, bad, 0x21, NOW), Sample(3, True, 0, 0x81, NOW)], NOW))
    found = explained(intake, "CB", protocol="dnp3")
    assert found["quality"] == "questionable"
    assert "native" not in found
    assert [one.get("native") for one in found["inputs"]] == [["ONLINE", "CHATTER_FILTER"], None]


def test_a_lost_link_is_the_reason_and_named_with_its_cause(intake: Intake) -> None:
    intake.link("BAY1", Link.UP, NOW)
    intake.apply(Batch("BAY1", [Sample(0, 12.5, 0, 0, NOW)], NOW))
    intake.link("BAY1", Link.DOWN, NOW + SECOND)
    found = explained(intake, "P", Link.DOWN)
    assert found["flags"] == ["comm-lost"]
    assert found["link"]["cause"] == "refused"
    assert found["last_good"]["value"] == 12.5
    assert found["value"] == 12.5


def test_contacts_and_inputs_are_shown(intake: Intake) -> None:
    intake.link("BAY1", Link.UP, NOW)
    intake.apply(Batch("BAY1", [Sample(2, False, 0, 0, NOW), Sample(3, True, 0, 0, NOW), Sample(0, 4, 0, 0, NOW)], NOW))
    double = explained(intake, "CB")
    assert double["value"] == "closed"
    assert [(one["point"], one["value"]) for one in double["inputs"]] == [("CB#open", False), ("CB#closed", True)]
    total = explained(intake, "SUM")
    assert (total["value"], total["inputs"]) == (5, [{"point": "P", "value": 4, "quality": "good"}])


def test_a_good_point_needs_no_reasons(intake: Intake) -> None:
    intake.link("BAY1", Link.UP, NOW)
    intake.apply(Batch("BAY1", [Sample(0, 4, 0, 0, NOW)], NOW))
    found = explained(intake, "P")
    assert (found["reasons"], found["usable"]) == ([], True)


def test_an_unknown_point_is_answered(intake: Intake) -> None:
    assert explained(intake, "NOPE") == {"bad": "there is no point 'NOPE'"}


def test_every_flag_has_a_reason_in_words() -> None:
    named = {bit for bit in q.FLAG_NAMES} | {q.SUBSTITUTED, q.TEST, q.BLOCKED}  # noqa: C416
    assert set(inquiry.REASONS) == named
