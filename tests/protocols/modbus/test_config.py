from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from gatewayd.points.types import ControlMode, Kind
from gatewayd.protocols.device import Device, Serial, Tls
from gatewayd.protocols.modbus import config
from tests.protocols.modbus.support import commanded, point

SERIAL = Serial(port="/dev/ttyS1", baud=4800, parity="even")


def made(points, *, framer="tcp", serial=None, tls=None, **options) -> Device:
    return Device(
        name="M1", protocol="modbus", host="" if serial else "h", port=502, framer=framer, serial=serial, tls=tls,
        options=options, points=tuple(points),
    )  # fmt: skip


def found(device: Device) -> list[tuple[int | None, str]]:
    return [(mistake.point.row if mistake.point else None, mistake.column) for mistake in config.check(device)]


def messages(device: Device) -> str:
    return "\n".join(mistake.message for mistake in config.check(device))


def test_it_imports_nothing_native():
    code = (
        "import sys, gatewayd.protocols.modbus.config as c;"
        "assert c.DEFAULT_PORT == 502;"
        "print([m for m in sys.modules if m.startswith(('pymodbus', 'serial', 'asyncio', 'ssl'))])"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "wrong",
    [
        {"unit": 256}, {"unit": -1}, {"poll_s": 0}, {"timeout_s": 0}, {"missed_polls": 0}, {"max_gap": 125},
        {"max_registers": 126}, {"max_registers": 0}, {"max_bits": 2001}, {"pause_ms": -1}, {"order": "acbd"},
        {"unknown": 1}, {"read_retries": 6}, {"connect_timeout_s": 0}, {"echo": "yes"},
    ],
)  # fmt: skip
def test_options_have_ranges_and_no_unknown_keys(wrong: dict):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, config.Options)


def test_check_finds_every_mistake_at_once():
    points = [
        point(0, Kind.BINARY, "nonsense"),
        point(1, Kind.ANALOG, "CO:1"),
        commanded(2, Kind.BINARY, "CROB:1", "DI:1"),
        commanded(3, Kind.BINARY, "CO:5", "DI:1", guard="DI:1"),
        point(4, Kind.STRING, "HR:1:str250"),
        commanded(5, Kind.ANALOG, "HR:9", "HR:9", min=-5, max=70_000),
    ]
    assert found(made(points, max_registers=100)) == [
        (0, "address"), (1, "address"), (2, "command"), (3, "guard"), (4, "address"), (5, "min"), (5, "max"),
    ]  # fmt: skip
    assert "125 registers; max_registers = 100 allows fewer" in messages(made(points, max_registers=100))
    assert "u16 holds 0 to 65535" in messages(made(points))


def test_limits_are_judged_in_raw_values():
    assert found(made([commanded(0, Kind.ANALOG, "HR:9:i16", scale=0.1, min=-3276.8, max=3276.7)])) == []
    assert found(made([commanded(0, Kind.ANALOG, "HR:9:i16", scale=0.1, min=0, max=3276.8)])) == [(0, "max")]
    assert found(made([commanded(0, Kind.ANALOG, "CO:1|CO:2", min=0, max=10)])) == []


@pytest.mark.parametrize(
    ("device", "column"),
    [
        (made([], framer="rtu", serial=SERIAL, unit=0), "unit"),
        (made([], framer="rtu-over-tcp", unit=248), "unit"),
        (made([], framer="rtu", serial=Serial(port="socket://x")), "serial.port"),
        (made([], framer="rtu", serial=SERIAL, one_connection=True), "one_connection"),
        (made([], echo=True), "echo"),
        (made([], tls=Tls(ca_file="ca", cert_file="c")), "tls"),
    ],
)
def test_options_that_contradict_each_other(device: Device, column: str):
    assert found(device) == [(None, column)]


def test_units_of_tcp_may_be_0_and_255():
    for unit in (0, 1, 255):
        assert found(made([], unit=unit)) == []


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("CO:7", "CO:7", True),
        ("CO:7", "CO:8", False),
        ("CO:7|CO:8", "CO:8", True),
        ("HR:7", "CO:7", False),
        ("HR:7:u32", "HR:8", True),
        ("HR:7", "HR:7", True),
        ("HR:7 on=1 off=2", "HR:7 on=3 off=4", False),
        ("HR:7 on=1 off=2", "HR:6:u32 on=3 off=4", True),
        ("recipe=select HR:1=1 > operate CO:7", "recipe=select HR:1=2 > operate CO:8", False),
        ("recipe=select HR:1=1 > operate CO:7", "CO:7", True),
    ],
)
def test_one_output_is_commanded_by_one_point(first: str, second: str, clash: bool):
    kinds = [Kind.ANALOG if text.startswith("HR") and "on=" not in text else Kind.BINARY for text in (first, second)]
    points = [commanded(0, kinds[0], first), commanded(1, kinds[1], second)]
    assert found(made(points)) == ([(1, "command")] if clash else [])
    if clash:
        assert "which P0 writes too" in messages(made(points))


def feedback(kind: Kind, command: str, proof: str, proof_kind: Kind | None = None) -> Device:
    return made(
        [
            point(0, kind, "DI:1" if kind is Kind.BINARY else "HR:1", control=ControlMode.SBO, command=command,
                  feedback="P1"),
            point(1, proof_kind or kind, proof),
        ]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("device", "wrong"),
    [
        (feedback(Kind.BINARY, "CO:7", "CO:7"), True),
        (feedback(Kind.BINARY, "CO:7", "8"), True),
        (feedback(Kind.BINARY, "CO:7", "CO:9"), True),
        (feedback(Kind.BINARY, "CO:7", "DI:7"), False),
        (feedback(Kind.BINARY, "HR:7", "HR:7.0"), True),
        (feedback(Kind.BINARY, "HR:7", "HR:8.0"), False),
        (feedback(Kind.ANALOG, "HR:7", "HR:7"), False),
    ],
)
def test_an_output_that_mirrors_the_command_proves_no_switch(device: Device, wrong: bool):
    assert found(device) == ([(0, "feedback")] if wrong else [])


def test_nothing_is_its_own_feedback_or_selected_at_the_device():
    device = made([commanded(0, Kind.ANALOG, "HR:9", "HR:9")])
    assert config.own_feedback(device) == frozenset()
    assert config.needs_select(device) == frozenset()


def test_the_desk_waits_for_a_write_and_its_read_back():
    assert config.answer_s(made([], timeout_s=2.0, pause_ms=500)) == 1.0 + 2 * 2.5


def test_the_plan_names_every_request():
    points = [point(row, Kind.ANALOG, f"HR:{2 * row}:f32") for row in range(6)] + [point(6, Kind.BINARY, "DI:3")]
    assert config.plan(made(points)) == [
        "read DI:3 (function 2, 1 discrete input): P6",
        "read HR:0 to 11 (function 3, 12 holding registers): P0, P1, P2 and 3 more",
        "in all 2 requests, 67 octets every 1 s",
    ]


def test_the_plan_of_a_serial_line_says_what_a_poll_costs():
    points = [point(0, Kind.ANALOG, "HR:0:f32")]
    line, total = config.plan(made(points, framer="rtu", serial=SERIAL, poll_s=0.5))
    # 8 octets out, 9 back, 11 bits each, and twice 3.5 characters of silence: 24 * 11 / 4800
    assert line.endswith("P0; 17 octets, 55 ms")
    expected = "in all 1 request, 17 octets every 0.5 s, 55 ms at 4800 baud without the device's own delays: "
    assert total == f"{expected}11% of the line"
    _, total = config.plan(made(points, framer="rtu", serial=Serial(port="/dev/x", baud=300), poll_s=0.5))
    assert total.endswith("more than poll_s, polls will be skipped")


def test_a_commanded_double_of_two_contacts_has_no_address_of_its_own():
    points = [
        commanded(0, Kind.DOUBLE, "CO:1|CO:2"),
        point(1, Kind.BINARY, "DI:0", contact=True),
        point(2, Kind.BINARY, "DI:1", contact=True),
    ]
    device = made(points)
    assert found(device) == []
    assert config.plan(device)[0] == "read DI:0 to 1 (function 2, 2 discrete inputs): P1, P2"
