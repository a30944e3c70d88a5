"""The cells `command` and `guard`: what they send, and what is a mistake in them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.control.reasons import Reason
from gatewayd.points.types import Kind, Value
from gatewayd.protocols.modbus.address import AddressError
from gatewayd.protocols.modbus.command import CommandError, Defaults, parse_command, parse_guard
from gatewayd.protocols.modbus.program import RefusedError, Verify, Write
from gatewayd.protocols.modbus.values import ORDERS

B, D, A, C, E, S = Kind.BINARY, Kind.DOUBLE, Kind.ANALOG, Kind.COUNTER, Kind.ENUM, Kind.STRING


def sent(text: str, kind: Kind, value: Value, **more) -> str:
    """The operating PDU in hexadecimal, `/` and the one that ends a pulse; `?` where it is read back."""
    program = parse_command(text, kind, **more).program(value)
    shown = program.operate.request.pdu.hex() + ("?" if program.operate.readback else "")
    return "/".join([shown, *(after.write.request.pdu.hex() for after in program.after)])


@pytest.mark.parametrize(
    ("text", "kind", "value", "pdu"),
    [
        ("CO:7", B, True, "050007ff00"),
        ("CO:7", D, False, "0500070000"),
        ("8", B, True, "050007ff00"),
        ("CO:7 fc=15", B, True, "0f000700010101?"),
        ("CO:7 fc=15", B, False, "0f000700010100?"),
        ("CO:7 fc=15 readback=no", B, True, "0f000700010101"),
        ("CO:7 pulse_ms=500", B, True, "050007ff00/0500070000"),
        ("CO:3|CO:4", D, False, "050003ff00"),
        ("CO:3|CO:4", D, True, "050004ff00"),
        ("CO:3|CO:4 pulse_ms=200", D, False, "050003ff00/0500030000"),
        ("CO:3|CO:4 pulse_ms=200", E, True, "050004ff00/0500040000"),
        ("CO:3|-", D, False, "050003ff00"),
        ("HR:120:u16", A, 30.0, "060078001e"),
        ("HR:120", A, 30, "060078001e"),
        ("40121", A, 30, "060078001e"),
        ("HR:120:u16 fc=16", A, 30, "1000780001" + "02001e?"),
        ("HR:120:i16", A, -2, "060078fffe"),
        ("HR:120:f32", A, 1.5, "1000780002043fc00000?"),
        ("HR:120:f32:cdab", A, 1.5, "10007800020400003fc0?"),
        ("HR:120:f32 readback=no", A, 1.5, "1000780002043fc00000"),
        ("HR:120:u64", C, 5, "10007800040800000000" + "00000005?"),
        ("HR:10", E, 2, "06000a0002"),
        ("HR:40:str4", S, "AB", "100028000204" + "41420000?"),
        ("HR:50", B, True, "0600320001"),
        ("HR:50", D, False, "0600320000"),
        ("HR:50 on=2 off=1", D, True, "0600320002"),
        ("HR:50 on=0xAA55 off=0x55AA", D, False, "06003255aa"),
        ("HR:50 on=1 off=2", A, True, "0600320001"),
        ("HR:50|HR:51", D, True, "0600330001"),
        ("HR:50|HR:51 on=7 pulse_ms=100", D, False, "0600320007/0600320000"),
        ("HR:50:u32", B, True, "10003200020400000001?"),
    ],
)
def test_what_a_command_sends(text: str, kind: Kind, value: Value, pdu: str):
    assert sent(text, kind, value) == pdu


def test_the_columns_and_options_change_the_form():
    assert sent("CO:7", B, True, readback=True) == "050007ff00?"
    assert sent("HR:1", A, 5, readback=True) == "0600010005?"
    multiple = Defaults(multiple=True)
    assert sent("CO:7", B, True, defaults=multiple) == "0f000700010101?"
    assert sent("HR:1", A, 5, defaults=multiple) == "1000010001020005?"
    assert sent("HR:1 fc=6", A, 5, defaults=multiple) == "0600010005"
    assert sent("HR:120:f32 readback=no", A, 1.5, defaults=Defaults(ORDERS["cdab"])) == "10007800020400003fc0"


@pytest.mark.parametrize(
    ("text", "kind", "value", "reason"),
    [
        ("CO:7", B, 1.5, Reason.BAD_REQUEST),
        ("CO:7", B, None, Reason.BAD_REQUEST),
        ("CO:7", B, 1, Reason.BAD_REQUEST),
        ("CO:7 pulse_ms=500", B, False, Reason.UNSUPPORTED),
        ("CO:3|-", D, True, Reason.UNSUPPORTED),
        ("-|CO:3", D, False, Reason.UNSUPPORTED),
        ("HR:120:u16", A, True, Reason.BAD_REQUEST),
        ("HR:120:u16", A, 1.5, Reason.BAD_REQUEST),
        ("HR:120:u16", A, 65536, Reason.OUT_OF_RANGE),
        ("HR:120:u16", A, -1, Reason.OUT_OF_RANGE),
        ("HR:120:f32", A, 1e40, Reason.OUT_OF_RANGE),
        ("HR:120:u16", A, "x", Reason.BAD_REQUEST),
        ("HR:40:str4", S, "ABCDE", Reason.OUT_OF_RANGE),
        ("HR:40:str4", S, 5, Reason.BAD_REQUEST),
    ],
)
def test_a_value_a_command_cannot_carry_is_refused(text: str, kind: Kind, value: Value, reason: Reason):
    with pytest.raises(RefusedError) as caught:
        parse_command(text, kind).program(value)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", B, "is allowed"),
        ("DI:3", B, "discrete inputs cannot be written"),
        ("IR:3", A, "input registers cannot be written"),
        ("HR:3.5", B, "a bit cannot be written without its neighbours"),
        ("CO:7", A, "a coil commands binary and double"),
        ("CO:7", E, "two of them a step"),
        ("CO:7", S, "kind string"),
        ("HR:1:f32", B, "u16 to i64 are allowed"),
        ("HR:1:f32", E, "u16 to i64 are allowed"),
        ("HR:1:u16", S, "strN"),
        ("HR:1:str4", A, "strN"),
        ("HR:1:str248", S, "one write has 123"),
        ("CO:7 on=1", B, "they are for registers"),
        ("HR:1 on=1 off=1", B, "they must differ"),
        ("HR:1 on=70000", B, "u16 holds"),
        ("CO:7 fc=6", B, "5 or 15 writes a coil"),
        ("HR:1 fc=5", A, "6 or 16 writes a holding register"),
        ("HR:1:f32 fc=6", A, "16 writes more than one"),
        ("CO:7 pulse_ms=5", B, "10 to 60000 is allowed"),
        ("CO:7 pulse_ms=soon", B, "10 to 60000 is allowed"),
        ("HR:1 pulse_ms=500", A, "only what is switched"),
        ("CO:7 pulse=500", B, 'did you mean "pulse_ms"'),
        ("CO:7 500", B, "name=value"),
        ("CO:7 fc=5 fc=5", B, "twice"),
        ("CO:7 readback=maybe", B, "yes or no"),
        ("CO:3|CO:3", D, "must differ"),
        ("CO:3|HR:3", D, "both are coils"),
        ("CO:3|CO:4|CO:5", D, "opens|closes"),
        ("-|-", D, "opens|closes"),
        ("CO:3|", D, "opens|closes"),
        ("HR:100|HR:99:u32", D, "must differ"),
        ("recipe=", B, "a recipe is select"),
        ("recipe=operate CO:7", B, "found no select"),
        ("recipe=select HR:1=1", B, "found no operate"),
        ("recipe=select HR:1=1 > operate CO:7 > operate CO:8", B, "operates once"),
        ("recipe=select HR:1 > operate CO:7", B, "its value is needed"),
        ("recipe=select DI:1=1 > operate CO:7", B, "cannot be written"),
        ("recipe=select CO:1=2 > operate CO:7", B, "0 to 1 is allowed"),
        ("recipe=select HR:1=1|2|3 > operate CO:7", B, "open|closed"),
        ("recipe=choose HR:1=1 > operate CO:7", B, "select"),
        ("recipe=release HR:1=1 > operate CO:7", B, "before operate"),
        ("recipe=select HR:1=1 > operate CO:7 > verify HR:2=1", B, "after operate"),
        ("recipe=select HR:1=1 > verify HR:2:str4=1 > operate CO:7", B, "not a text"),
        ("recipe=select HR:1=1 > verify HR:2=1 within_ms=99999 > operate CO:7", B, "1 to 10000"),
        ("recipe=select HR:1=1 > operate CO:7 pulse_ms=500", B, "fc=, on=, off= or readback= is allowed"),
        ("recipe=select HR:1=1 > operate HR:2=5", A, "the command's own value"),
        ("recipe=" + " > ".join(["select HR:1=1"] * 16 + ["operate CO:7"]), B, "16 at most"),
    ],
)
def test_a_mistake_in_a_command(text: str, kind: Kind, message: str):
    with pytest.raises((CommandError, AddressError), match=re.escape(message)):
        parse_command(text, kind)


def test_readback_in_the_column_and_no_in_the_cell_contradict_each_other():
    with pytest.raises(CommandError, match="one of them"):
        parse_command("CO:7 readback=no", B, readback=True)


def test_a_recipe_in_one_cell():
    command = parse_command(
        "recipe=select HR:200=0x5A5A|0xA5A5 > verify HR:201.3=1 within_ms=2000 > select CO:9=1"
        " > operate HR:210=1|2 > release CO:9=0 after_ms=100 > release HR:200=0",
        D,
    )
    program = command.program(True)
    first, verify, second = program.before
    assert isinstance(first, Write)
    assert first.request.pdu.hex() == "0600c8a5a5"
    assert isinstance(verify, Verify)
    assert (str(verify.look.address), verify.look.value, verify.within_s) == ("HR:201.3", 1, 2.0)
    assert isinstance(second, Write)
    assert second.request.pdu.hex() == "050009ff00"
    assert program.operate.request.pdu.hex() == "0600d20002"
    assert [(a.write.request.pdu.hex(), a.delay_s, a.repeats) for a in program.after] == [
        ("0500090000", 0.1, False),
        ("0600c80000", 0, False),
    ]
    assert command.program(False).operate.request.pdu.hex() == "0600d20001"
    assert [str(address) for address in program.written] == [
        "HR:200:u16", "CO:9", "HR:210:u16", "CO:9", "HR:200:u16",
    ]  # fmt: skip


def test_a_recipe_may_announce_the_value_itself():
    program = parse_command("recipe=select HR:1:f32=value readback=no > verify HR:1:f32=value > operate CO:7|CO:8", A)
    with pytest.raises(RefusedError):
        program.program(1.5)  # a pair of coils takes raise and lower
    program = parse_command("recipe=select HR:1:f32=value > verify HR:1:f32=value > operate HR:5:f32", A).program(1.5)
    select, verify = program.before
    assert isinstance(select, Write)
    assert select.request.pdu.hex() == "100001000204" + "3fc00000"
    assert isinstance(verify, Verify)
    assert verify.look.holds(bytes.fromhex("3fc00000"))
    assert not verify.look.holds(bytes.fromhex("3fc00001"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("DI:3=1", ["DI:3 = 1"]),
        ("DI:3=1 HR:10.2=0", ["DI:3 = 1", "HR:10.2 = 0"]),
        ("DI:3 = 1 and HR:10:i16 >= -5, IR:5:f32<1.5 & CO:1!=0", ["DI:3 = 1", "HR:10:i16 >= -5", "IR:5:f32 < 1.5",
                                                                "CO:1 != 0"]),
        ("10004=1", ["DI:3 = 1"]),
    ],
)  # fmt: skip
def test_a_guard(text: str, shown: list[str]):
    assert [f"{look.address} {look.operator} {look.value:g}" for look in parse_guard(text)] == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("DI:3", "conditions such as"),
        ("DI:3=2", "0 to 1 is allowed"),
        ("DI:3=1 or DI:4=1", "conditions such as"),
        ("DI:3=1,", "conditions such as"),
        ("HR:1:str4=1", "not a text"),
        ("HR:1=x", "number"),
        (" ".join(["DI:3=1"] * 17), "16 at most"),
    ],
)
def test_a_mistake_in_a_guard(text: str, message: str):
    with pytest.raises((CommandError, AddressError), match=re.escape(message)):
        parse_guard(text)


@pytest.mark.parametrize(
    ("text", "octets", "holds"),
    [
        ("DI:3=1", "01", True), ("DI:3=1", "fe", False), ("HR:1.3=1", "0008", True), ("HR:1.3=1", "fff7", False),
        ("HR:1:i16<0", "ffff", True), ("HR:1:i16>=0", "ffff", False), ("HR:1!=5", "0005", False),
        ("HR:1>5", "0006", True), ("HR:1<=5", "0006", False), ("HR:1.4-6=5", "0050", True),
        ("IR:1:f32=0", "7fc00000", False), ("IR:1:f32!=0", "7fc00000", False), ("IR:1:f32<1", "7fc00000", False),
        ("IR:1:f32>=0", "7fc00000", False),
    ],
)  # fmt: skip
def test_when_a_guard_holds(text: str, octets: str, holds: bool):
    (look,) = parse_guard(text)
    assert look.holds(bytes.fromhex(octets)) is holds
    assert re.fullmatch(r".* is .*; .* is needed", look.missed(bytes.fromhex(octets)))


CELL = st.text(st.sampled_from(list("CODIHR:0123456789=|>. recipslvfyoaw_m")), max_size=40)


@given(st.one_of(CELL, CELL.map(lambda cell: f"recipe={cell}"), st.text(max_size=30)), st.sampled_from(list(Kind)))
def test_any_cell_is_a_command_or_a_mistake(text: str, kind: Kind):
    try:
        command = parse_command(text, kind)
    except (CommandError, AddressError):
        return
    assert command.output.addresses


@given(st.one_of(CELL, st.text(max_size=30)))
def test_any_cell_is_a_guard_or_a_mistake(text: str):
    try:
        parse_guard(text)
    except (CommandError, AddressError):
        return
