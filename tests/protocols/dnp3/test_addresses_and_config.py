from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gatewayd.control.reasons import Reason
from gatewayd.points.types import ControlMode, Kind, PointSpec, Value
from gatewayd.protocols.device import Device, Tls
from gatewayd.protocols.dnp3 import config
from gatewayd.protocols.dnp3.address import Address, AddressError, parse
from gatewayd.protocols.dnp3.command import AnalogOutput, Crob, UnsendableError, parse_command
from tests.protocols.dnp3.support import point


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("BI:12", Address("BI", 12)),
        (" DBI:3 ", Address("DBI", 3)),
        ("AI:0", Address("AI", 0)),
        ("CT:65535", Address("CT", 65535)),
        ("FC:1", Address("FC", 1)),
        ("BO:2", Address("BO", 2)),
        ("AO:1", Address("AO", 1)),
        ("OS:0", Address("OS", 0)),
    ],
)
def test_an_address_is_a_type_and_an_index(text: str, expected: Address) -> None:
    assert parse(text) == expected
    assert str(expected) == text.strip()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("BI", 'found "BI"; an address is a type and an index such as BI:12'),
        ("BI:-1", 'found "BI:-1"'),
        ("BI:1.5", 'found "BI:1.5"'),
        ("BI:65536", 'found index 65536 in "BI:65536"; 0 to 65535 is allowed'),
        ("bi:1", 'found the type "bi"; did you mean "BI"?'),
        ("DI:1", 'found the type "DI"; did you mean "DBI"?'),
        ("XYZ:1", 'found the type "XYZ"; types are BI, DBI, AI, CT, FC, BO, AO or OS'),
        ("BI:٣", "an address is a type"),  # an Arabic digit is a digit to Python
        ("", 'found ""'),
    ],
)
def test_a_wrong_address_says_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse(text)
    assert message in str(caught.value)


def crob(index: int, code: int, on: int = 100, off: int = 100) -> Crob:
    return Crob(index, code, on, off)


@pytest.mark.parametrize(
    ("text", "true", "false"),
    [
        ("CROB:2 trip-close", crob(2, 0x41), crob(2, 0x81)),
        ("CROB:2 trip-close on=250 off=50", crob(2, 0x41, 250, 50), crob(2, 0x81, 250, 50)),
        ("CROB:2 on=250 trip-close count=1", crob(2, 0x41, 250), crob(2, 0x81, 250)),
        ("CROB:6 raise-lower on=500", crob(6, 0x41, 500), crob(6, 0x81, 500)),
        ("CROB:4 latch", crob(4, 0x03), crob(4, 0x04)),
        ("CROB:7 pulse open=8", crob(7, 0x01), crob(8, 0x01)),
        ("CROB:9 codes true=0x41 false=0x81", crob(9, 0x41), crob(9, 0x81)),
        ("CROB:9 codes true=0x43 false=0x84 nonstandard", crob(9, 0x43), crob(9, 0x84)),
        ("CROB:9 codes true=0x21 false=0x02 nonstandard", crob(9, 0x21), crob(9, 0x02)),
    ],
)
def test_what_goes_out_for_true_and_false(text: str, true: Crob, false: Crob) -> None:
    command = parse_command(text)
    assert command.outgoing(True) == true
    assert command.outgoing(False) == false


@pytest.mark.parametrize("text", ["CROB:5 pulse", "CROB:5 codes true=0x01"])
def test_a_single_pulse_has_nothing_for_false(text: str) -> None:
    command = parse_command(text)
    assert command.outgoing(True) == crob(5, 0x01)
    with pytest.raises(UnsendableError) as caught:
        command.outgoing(False)
    assert caught.value.reason is Reason.UNSUPPORTED


@pytest.mark.parametrize("value", [1, 0, 1.0, "closed", None])
def test_a_crob_takes_true_and_false_only(value: Value) -> None:
    with pytest.raises(UnsendableError) as caught:
        parse_command("CROB:2 trip-close").outgoing(value)
    assert caught.value.reason is Reason.BAD_REQUEST


@pytest.mark.parametrize(
    ("form", "value", "outcome"),
    [
        ("i16", 32767, 32767),
        ("i16", -32768.0, -32768),
        ("i16", 32768, Reason.OUT_OF_RANGE),
        ("i16", 1.5, Reason.BAD_REQUEST),
        ("i32", 2**31 - 1, 2**31 - 1),
        ("i32", -(2**31) - 1, Reason.OUT_OF_RANGE),
        ("f32", 1.5, 1.5),
        ("f32", 3.5e38, Reason.OUT_OF_RANGE),
        ("f64", 1e300, 1e300),
        ("f64", float("nan"), Reason.OUT_OF_RANGE),
        ("f64", float("inf"), Reason.OUT_OF_RANGE),
        ("f64", 10**400, Reason.OUT_OF_RANGE),
        ("i16", True, Reason.BAD_REQUEST),
        ("i16", "5", Reason.BAD_REQUEST),
        ("f64", None, Reason.BAD_REQUEST),
    ],
)
def test_a_setpoint_goes_out_exactly_or_not_at_all(form: str, value: Value, outcome: float | Reason) -> None:
    command = parse_command(f"AO:1 {form}")
    if isinstance(outcome, Reason):
        with pytest.raises(UnsendableError) as caught:
            command.outgoing(value)
        assert caught.value.reason is outcome
    else:
        assert command.outgoing(value) == AnalogOutput(1, form, outcome)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CROB:2", "found no form"),
        ("CROB:2 tripclose", 'did you mean "trip-close"?'),
        ("CROB:2 latch pulse", "exactly one of"),
        ("CROB:2 trip-close count=2", "found count=2; only 1 is allowed"),
        ("CROB:2 trip-close onn=5", 'did you mean "on="?'),
        ("CROB:2 trip-close on=-5", 'found on="-5"; whole milliseconds'),
        ("CROB:2 trip-close on=4294967296", "whole milliseconds from 0 to 4294967295"),
        ("CROB:2 trip-close on=1 on=2", 'found "on" twice'),
        ("CROB:2 trip-close open=8", 'found "open=8"'),
        ("CROB:2 trip-close nonstandard", 'found "nonstandard"'),
        ("CROB:7 pulse open=x", 'found open="x"'),
        ("CROB:7 pulse open=70000", "found index 70000"),
        ("CROB:70000 latch", "found index 70000"),
        ("CROB:9 codes", "found codes without true="),
        ("CROB:9 codes true=0x43", "with the word nonstandard"),
        ("CROB:9 codes true=67 nonstandard", "two hexadecimal digits"),
        ("CROB:9 codes true=0x51 nonstandard", "the queue bit (0x10) is obsolete"),
        ("CROB:9 codes true=0xC1 nonstandard", "CLOSE (0x40) or TRIP (0x80)"),
        ("CROB:9 codes true=0x05 nonstandard", "an operation from 1 to 4"),
        ("CROB:9 codes true=0x40 nonstandard", "an operation from 1 to 4"),
        ("AO:1", "exactly one of i16, i32, f32 or f64"),
        ("AO:1 f16", "exactly one of i16, i32, f32 or f64"),
        ("AO:1 int16", 'did you mean "i16"?'),
        ("AO:1 i16 i32", "exactly one of"),
        ("BO:2 latch", "CROB or AO can be commanded"),
        ("crob:2 latch", 'did you mean "CROB"?'),
        ("latch", "a command is CROB:2 trip-close"),
    ],
)
def test_a_wrong_command_says_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_command(text)
    assert message in str(caught.value)


def mistakes(points: list[PointSpec], **more: Any) -> list[tuple[int | None, str, str]]:
    tls = more.pop("tls", None)
    made = Device(name="D", protocol="dnp3", host="h", port=1, options=more, points=tuple(points), tls=tls)
    return [(found.point.row if found.point else None, found.column, found.message) for found in config.check(made)]


def test_a_list_without_mistakes() -> None:
    good = [
        point(0, Kind.DOUBLE, "", control=ControlMode.SBO, command="CROB:2 trip-close"),
        point(1, Kind.BINARY, "BI:3", contact=True),
        point(2, Kind.BINARY, "BI:4", contact=True),
        point(3, Kind.DOUBLE, "DBI:0"),
        point(4, Kind.ANALOG, "AI:4", control=ControlMode.SBO, command="AO:1 i16"),
        point(5, Kind.ENUM, "AI:5", control=ControlMode.DIRECT, command="CROB:6 raise-lower"),
        point(6, Kind.COUNTER, "CT:0"),
        point(7, Kind.ANALOG, "FC:0"),
        point(8, Kind.STRING, "OS:0"),
        point(9, Kind.ENUM, "BI:9"),
    ]
    assert mistakes(good) == []


@pytest.mark.parametrize(
    ("kind", "address", "message"),
    [
        (Kind.DOUBLE, "BI:3", "did you mean DBI:3, or two contacts such as BI:3|BI:4?"),
        (Kind.BINARY, "DBI:3", "did you mean kind double?"),
        (
            Kind.BINARY,
            "AI:1",
            "found kind binary for AI:1, an analog input; analog, enum or counter can take its value",
        ),
        (Kind.STRING, "CT:1", "found kind string for CT:1, a counter; counter or analog can take its value"),
        (Kind.ANALOG, "OS:1", "string can take its value"),
        (Kind.DOUBLE, "BO:1", "binary or enum can take its value"),
    ],
)
def test_a_kind_that_does_not_fit_the_address(kind: Kind, address: str, message: str) -> None:
    ((row, column, found),) = mistakes([point(7, kind, address)])
    assert (row, column) == (7, "address")
    assert message in found


@pytest.mark.parametrize(
    ("kind", "address", "command", "message"),
    [
        (Kind.ANALOG, "AI:1", "CROB:2 trip-close", "raise and lower as CROB:6 raise-lower"),
        (Kind.COUNTER, "CT:1", "CROB:2 latch", "binary and double can have it"),
        (Kind.BINARY, "BI:1", "AO:1 i16", "a two-state output is CROB:2 trip-close"),
        (Kind.STRING, "OS:1", "CROB:6 raise-lower", "found CROB:6 raise-lower for a point of kind string"),
        (Kind.BINARY, "BI:1", "CROB:2 clos", "found no form"),
    ],
)
def test_a_command_that_does_not_fit_the_kind(kind: Kind, address: str, command: str, message: str) -> None:
    made = point(7, kind, address, control=ControlMode.SBO, command=command)
    ((row, column, found),) = mistakes([made])
    assert (row, column) == (7, "command")
    assert message in found


def test_the_same_index_read_twice() -> None:
    ((row, column, found),) = mistakes([point(0, Kind.BINARY, "BI:3"), point(1, Kind.BINARY, "BI:3")])
    assert (row, column, found) == (1, "address", "found BI:3 a second time, first at P0; once is allowed")


def test_a_command_is_not_judged_without_control() -> None:
    assert mistakes([point(0, Kind.BINARY, "BI:3", command="nonsense")]) == []


@pytest.mark.parametrize(
    ("options", "column", "message"),
    [
        ({"local_address": 10}, "remote_address", "found 10 for both"),
        ({"unsolicited": False, "event_poll_s": 0}, "event_poll_s", "events would never be read"),
        ({"event_poll_s": 0.01}, "event_poll_s", "0 (none) or 0.05 to 86400"),
        ({"integrity_poll_s": 0.5}, "integrity_poll_s", "0 or 1 to 604800"),
        ({"tls": Tls(ca_file="a", cert_file="b")}, "tls", "both or neither"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], column: str, message: str) -> None:
    ((row, found_column, found),) = mistakes([], **options)
    assert (row, found_column) == (None, column)
    assert message in found


@pytest.mark.parametrize(
    "wrong",
    [
        {"remote_adress": 3},
        {"local_address": 65520},
        {"remote_address": -1},
        {"time_sync": "ntp"},
        {"response_timeout_s": 0},
        {"response_timeout_s": 121},
        {"connect_timeout_s": 0.01},
        {"event_poll_s": -1},
        {"keepalive_s": 0.5},
        {"control_index_octets": 4},
        {"unsolicited": "yes"},
    ],
)
def test_options_out_of_range_or_unknown(wrong: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, config.Options)


def test_defaults() -> None:
    assert config.DEFAULT_PORT == 20000
    read = config.Options()
    assert (read.local_address, read.remote_address) == (1, 10)
    assert (read.unsolicited, read.time_sync, read.event_poll_s, read.integrity_poll_s) == (True, "lan", 1.0, 3600.0)


def test_the_plan_says_how_the_device_is_read() -> None:
    points = (point(0, Kind.BINARY, "BI:0"), point(1, Kind.BINARY, "BI:1"), point(2, Kind.ANALOG, "AI:0"))
    made = Device(name="D", protocol="dnp3", host="h", port=1, options={"unsolicited": False}, points=points)
    integrity = "integrity poll, classes 1, 2, 3 and 0: after connect, device restart and overflow, then every 3600 s"
    assert config.plan(made) == [
        "outstation 10, master 1; points: 2 BI and 1 AI",
        f"{integrity}; points that are not in class 0 are read by their type",
        "event poll, classes 1, 2 and 3: every 1 s",
        "unsolicited responses: disabled at the device",
        "time: given by the lan procedure when the device asks and the gateway's own clock is in step",
    ]


def test_the_desk_waits_for_select_and_operate() -> None:
    made = Device(name="D", protocol="dnp3", host="h", port=1, options={"response_timeout_s": 12.0})
    assert config.answer_s(made) == 25.0


def test_nothing_proves_itself_and_no_select_is_held_at_the_device() -> None:
    points = (point(0, Kind.BINARY, "BO:0", control=ControlMode.SBO, command="CROB:0 latch"),)
    made = Device(name="D", protocol="dnp3", host="h", port=1, points=points)
    assert config.own_feedback(made) == config.needs_select(made) == frozenset()
