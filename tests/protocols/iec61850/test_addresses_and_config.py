from __future__ import annotations

import pytest

from gatewayd.points.types import ControlMode, Kind
from gatewayd.protocols.iec61850 import config
from gatewayd.protocols.iec61850.address import AddressError, parse, parse_block, parse_command, split_item
from tests.protocols.iec61850.support import BRCB, LD, commanded, device, point


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("BAY1LD0/XCBR1.Pos", "XCBR1$$Pos"),
        ("BAY1LD0/XCBR1.Pos.stVal[ST]", "XCBR1$ST$Pos$stVal"),
        ("BAY1LD0/MMXU1.TotW.mag.f[MX]", "MMXU1$MX$TotW$mag$f"),
        (" BAY1LD0/MMXU1.A.phsA ", "MMXU1$$A$phsA"),
    ],
)
def test_an_address_is_read(text: str, item: str):
    address = parse(text)
    assert (address.ld, address.item()) == ("BAY1LD0", item)


@pytest.mark.parametrize(
    "text",
    [
        "", "XCBR1.Pos", "BAY1LD0/XCBR1", "BAY1LD0/XCBR1.Pos[XX]", "BAY1LD0/XCBR1.Pos[CO]", "BAY1LD0/XCBR1..Pos",
        "BAY1LD0/XCBR1$ST$Pos", "BAY1LD0/GGIO1.AnIn(1).mag", "BAY1LD0/XCBR1.Pos [ST]", "A" * 65 + "/XCBR1.Pos",
        "BAY1LD0/XCBR1." + "x" * 60,
    ],
)  # fmt: skip
def test_a_wrong_address_says_what_was_found_and_what_is_allowed(text: str):
    with pytest.raises(AddressError, match=r"found .*allowed|allowed"):
        parse(text)


def test_a_command_is_an_object_that_leaves_room_for_its_services():
    assert parse_command("BAY1LD0/CSWI1.Pos").item("CO") == "CSWI1$CO$Pos"
    with pytest.raises(AddressError, match="without"):
        parse_command("BAY1LD0/CSWI1.Pos[ST]")
    with pytest.raises(AddressError):
        parse_command("BAY1LD0/CSWI1." + "x" * 50)


def test_a_control_block_is_buffered_by_its_functional_constraint():
    assert parse_block(BRCB).buffered
    assert not parse_block("BAY1LD0/LLN0.RP.urcbMX01").buffered
    for wrong in ("BAY1LD0/LLN0.brcbST", "BAY1LD0/LLN0.BR", "BAY1LD0/LLN0.ST.x"):
        with pytest.raises(AddressError):
            parse_block(wrong)


@pytest.mark.parametrize("item", ["", "XCBR1", "XCBR1$ST", "XCBR1$$Pos", "XCBR1$ST$"])
def test_a_member_that_is_no_data_is_refused(item: str):
    with pytest.raises(AddressError):
        split_item(item)


def test_check_finds_every_mistake_at_once():
    points = [
        point(0, Kind.BINARY, "nonsense"),
        point(1, Kind.DOUBLE, f"{LD}/CSWI1.Pos", control=ControlMode.SBO, command="CROB:1"),
        commanded(2, Kind.DOUBLE, "CSWI1.Pos", check=("interlock", "fuse")),
    ]
    wrong = device(1, points, reports=[BRCB, BRCB, "x"], originator="ü" * 40, ap_title="a.b")
    found = [(mistake.point.row if mistake.point else None, mistake.column) for mistake in config.check(wrong)]
    assert found == [
        (None, "reports.1"), (None, "reports.2"), (None, "originator"), (None, "ap_title"),
        (0, "address"), (1, "command"), (2, "check"),
    ]  # fmt: skip


def test_a_clean_device_has_no_mistakes_and_a_plan():
    clean = device(102, [commanded(0, Kind.DOUBLE, "CSWI1.Pos"), point(1, Kind.ANALOG, f"{LD}/MMXU1.TotW")])
    assert config.check(clean) == []
    plan = config.plan(clean)
    assert plan[0].startswith(f"buffered report {BRCB}")
    assert any("MMXU1.TotW" in line for line in plan)


def test_a_controllable_object_proves_itself_and_another_address_does_not():
    points = [
        commanded(0, Kind.DOUBLE, "CSWI1.Pos"),
        point(1, Kind.DOUBLE, f"{LD}/CSWI1.Pos.stVal[ST]", control=ControlMode.SBO, command=f"{LD}/CSWI1.Pos"),
        point(2, Kind.DOUBLE, f"{LD}/XCBR1.Pos", control=ControlMode.SBO, command=f"{LD}/CSWI1.Pos"),
        point(3, Kind.BINARY, f"{LD}/CSWI1.Pos.stSeld", control=ControlMode.DIRECT, command=f"{LD}/CSWI1.Pos"),
        point(4, Kind.DOUBLE, f"{LD}/CSWI1.Pos"),
        point(5, Kind.DOUBLE, "", control=ControlMode.SBO, command=f"{LD}/CSWI1.Pos"),
    ]
    made = device(102, points)
    assert config.own_feedback(made) == {0, 1}
    assert config.needs_select(made) == {0, 1, 2, 5}
    assert config.answer_s(made) == 2 * config.options(made).timeout_s
    assert config.check(made) == []
