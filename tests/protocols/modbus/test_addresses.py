from __future__ import annotations

import math
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.points.types import Kind
from gatewayd.protocols.modbus.address import AddressError, Table, misfit, parse
from gatewayd.protocols.modbus.values import (
    BIG_ENDIAN,
    ORDERS,
    TYPES,
    Order,
    UnfitError,
    from_octets,
    order_named,
    to_octets,
    type_named,
)


@pytest.mark.parametrize(
    ("text", "table", "start", "shown"),
    [
        ("HR:100:f32", "HR", 100, "HR:100:f32"),
        ("hr:100", "HR", 100, "HR:100:u16"),
        ("HR:0x64:u16", "HR", 100, "HR:100:u16"),
        ("IR:30:u16", "IR", 30, "IR:30:u16"),
        ("CO:5", "CO", 5, "CO:5"),
        ("DI:65535", "DI", 65535, "DI:65535"),
        ("HR:5.3", "HR", 5, "HR:5.3"),
        ("HR:5.4-6", "HR", 5, "HR:5.4-6"),
        ("HR:40:str8", "HR", 40, "HR:40:str8"),
        ("HR:65532:u64", "HR", 65532, "HR:65532:u64"),
        # Modicon references count from 1
        ("40101", "HR", 100, "HR:100:u16"),
        ("400101:f32", "HR", 100, "HR:100:f32"),
        ("465536", "HR", 65535, "HR:65535:u16"),
        ("49999", "HR", 9998, "HR:9998:u16"),
        ("410000", "HR", 9999, "HR:9999:u16"),
        ("30031:i16", "IR", 30, "IR:30:i16"),
        ("300031", "IR", 30, "IR:30:u16"),
        ("10008", "DI", 7, "DI:7"),
        ("100008", "DI", 7, "DI:7"),
        ("00008", "CO", 7, "CO:7"),
        ("000008", "CO", 7, "CO:7"),
        ("8", "CO", 7, "CO:7"),
        ("40006.3", "HR", 5, "HR:5.3"),
    ],
)
def test_an_address_is_read(text: str, table: str, start: int, shown: str):
    address = parse(text)
    assert (address.table, address.start, str(address)) == (table, start, shown)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'found ""'),
        ("HR", "HR:100:f32"),
        ("HR:-1", "allowed"),
        ("HX:1", "CO, DI, IR or HR is allowed"),
        ("HR:65536", "HR:0 to HR:65535"),
        ("HR:65535:f32", "HR:65535 is the last"),
        ("HR:65520:str40", "HR:65535 is the last"),
        ("HR:1:f16", 'found type "f16"'),
        ("HR:1:str0", "str1 to str250"),
        ("HR:1:str251", "str1 to str250"),
        ("HR:1:f32:acbd", "abcd, badc, cdab or dcba is allowed for f32"),
        ("HR:1:f32:abcdefgh", "is allowed for f32"),
        ("HR:1:u16:abcd", "ab or ba is allowed for u16"),
        ("HR:1.16", ".0 (least significant) to .15"),
        ("HR:1.6-4", ".15"),
        ("HR:1.3:u16", "no type"),
        ("CO:1:u16", "a coil (CO) has no type"),
        ("DI:1.3", "has no bit"),
        ("20001", "Modicon"),
        ("400000", "count from 1"),
        ("40000", "count from 1"),
        ("465537", "count from 1 to 65536"),
        ("1234567", "Modicon"),
        ("99999", "Modicon"),
        ("HR:1:u16 na=", "number"),
        ("HR:1:u16 na=70000", "u16 holds 0 to 65535"),
        ("HR:1:u16 na=0x10000", "4 hexadecimal digits"),
        ("HR:1:u16 na=1.5", "whole number"),
        ("HR:1:u16 nan=1", 'found "nan=1"'),
        ("CO:1 na=1", "only with a number"),
        ("HR:1.3 min=0", "only with a number"),
        ("HR:1:i16 min=5 max=-5", "min must not be above max"),
    ],
)
def test_a_wrong_address_says_what_was_found_and_what_is_allowed(text: str, message: str):
    with pytest.raises(AddressError, match=re.escape(message)):
        parse(text)


def test_words_behind_the_address():
    address = parse("IR:9:i16 na=0x8000|0x7FFF min=-100 max=4000")
    assert address.not_available == {-32768, 32767}
    assert (address.low, address.high) == (-100, 4000)
    assert parse("IR:9:f32 na=-9999").not_available == {-9999.0}
    (nan,) = parse("IR:9:f32 na=0x7FC00000").not_available
    assert math.isnan(nan)


def test_the_devices_order_is_for_values_of_several_registers_that_do_not_say_theirs():
    swapped = ORDERS["cdab"]
    assert parse("HR:1:f32", swapped).order == swapped
    assert parse("HR:1:f32:abcd", swapped).order == BIG_ENDIAN
    assert parse("HR:1:u16", ORDERS["badc"]).order == BIG_ENDIAN
    assert parse("HR:1:str4", ORDERS["badc"]).order == BIG_ENDIAN
    assert parse("HR:1:u16:ba").order == Order(octets=True)


EVERY_FORM = (
    "CO:1 DI:1 HR:1.3 IR:1.15 HR:1.2-3 HR:1.4-6 HR:1:u16 HR:1:i32 HR:1:u64 HR:1:f32 IR:1:f64 HR:1:str1 IR:1:str250"
)


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        (Kind.BINARY, "CO:1 DI:1 HR:1.3 IR:1.15 HR:1:u16"),
        (Kind.DOUBLE, "HR:1.2-3 HR:1:u16"),
        (Kind.ANALOG, "HR:1:u16 HR:1:i32 HR:1:u64 HR:1:f32 IR:1:f64 HR:1.3 HR:1.4-6"),
        (Kind.COUNTER, "HR:1:u16 HR:1:i32 HR:1:u64 HR:1.3 HR:1.4-6"),
        (Kind.ENUM, "HR:1:u16 HR:1:i32 HR:1:u64 HR:1.3 HR:1.4-6 CO:1 DI:1"),
        (Kind.STRING, "HR:1:str1 IR:1:str250"),
    ],
)
def test_what_fits_a_kind(kind: Kind, fits: str):
    everything = set(EVERY_FORM.split())
    right = set(fits.split())
    if kind in (Kind.ANALOG, Kind.COUNTER, Kind.ENUM):
        right |= {"HR:1.2-3", "IR:1.15"}
    assert {text for text in everything if not misfit(parse(text), kind)} == right
    for text in everything - right:
        assert re.fullmatch(r"found .* for kind .*; .* is allowed", misfit(parse(text), kind))


# ---- values


@pytest.mark.parametrize(
    ("name", "value", "order", "wire"),
    [
        ("u16", 0x1234, "ab", "1234"),
        ("u16", 0x1234, "ba", "3412"),
        ("i16", -2, "ab", "fffe"),
        ("u32", 0x0A0B0C0D, "abcd", "0a0b0c0d"),
        ("u32", 0x0A0B0C0D, "badc", "0b0a0d0c"),
        ("u32", 0x0A0B0C0D, "cdab", "0c0d0a0b"),
        ("u32", 0x0A0B0C0D, "dcba", "0d0c0b0a"),
        ("i32", -2, "cdab", "fffeffff"),
        ("f32", 1.5, "abcd", "3fc00000"),
        ("f32", 1.5, "cdab", "00003fc0"),
        ("u64", 0x0102030405060708, "abcdefgh", "0102030405060708"),
        ("u64", 0x0102030405060708, "badcfehg", "0201040306050807"),
        ("u64", 0x0102030405060708, "ghefcdab", "0708050603040102"),
        ("u64", 0x0102030405060708, "hgfedcba", "0807060504030201"),
        ("u64", 0x0102030405060708, "cdab", "0708050603040102"),
        ("i64", -1, "dcba", "ff" * 8),
        ("f64", 1.5, "abcd", "3ff8000000000000"),
        ("str5", "Mains", "ab", b"Mains\0".hex()),
        ("str4", "Main", "ba", b"aMni".hex()),
        ("str4", "ab", "ab", b"ab\0\0".hex()),
    ],
)
def test_values_in_registers(name: str, value: float | str, order: str, wire: str):
    kind = type_named(name)
    chosen = order_named(order, kind)
    assert to_octets(value, kind, chosen).hex() == wire
    assert from_octets(bytes.fromhex(wire), kind, chosen) == value


NUMBERS = {
    name: st.integers(*kind.limits) if kind.is_whole else st.floats(width=32 if name == "f32" else 64, allow_nan=False,
                                                                     allow_infinity=False)
    for name, kind in TYPES.items()
}  # fmt: skip


@given(st.data(), st.sampled_from(list(TYPES)), st.sampled_from(list(ORDERS)))
def test_every_type_comes_back_in_every_order(data, name: str, order: str):
    kind = TYPES[name]
    chosen = ORDERS[order] if kind.registers > 1 else Order(octets=order in ("badc", "dcba"))
    value = data.draw(NUMBERS[name])
    assert from_octets(to_octets(value, kind, chosen), kind, chosen) == value


@given(st.text(max_size=40), st.integers(1, 40), st.booleans())
def test_a_text_comes_back_or_is_refused(value: str, octets: int, swapped: bool):
    kind = type_named(f"str{octets}")
    try:
        wire = to_octets(value, kind, Order(octets=swapped))
    except UnfitError:
        assert len(value.encode("utf-8", "replace")) > octets or "\0" in value
        return
    assert len(wire) == 2 * kind.registers
    assert from_octets(wire, kind, Order(octets=swapped)) == value.encode("utf-8", "replace").decode().rstrip(" ")


@given(st.binary(min_size=1, max_size=40))
def test_any_octets_are_some_text(octets: bytes):
    kind = type_named(f"str{len(octets)}")
    value = from_octets(octets + b"\0", kind, BIG_ENDIAN)
    assert isinstance(value, str)
    assert "\0" not in value


@pytest.mark.parametrize(
    ("name", "value", "too_large"),
    [
        ("u16", -1, True), ("u16", 65536, True), ("i16", 32768, True), ("i16", -32769, True), ("u32", 2**32, True),
        ("u64", 2**64, True), ("i64", -(2**63) - 1, True), ("u16", 1.5, False), ("f32", 1e39, True),
        ("f32", math.nan, True), ("f64", math.inf, True), ("f64", 10**400, True), ("u16", "5", False),
        ("u16", None, False), ("str2", "abc", True), ("str2", 5, False),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(name: str, value, too_large: bool):
    with pytest.raises(UnfitError) as caught:
        to_octets(value, type_named(name), BIG_ENDIAN)
    assert caught.value.too_large is too_large


def test_a_float_is_rounded_to_its_width():
    kind = TYPES["f32"]
    assert (
        from_octets(to_octets(0.1, kind, BIG_ENDIAN), kind, BIG_ENDIAN)
        == struct.unpack(">f", struct.pack(">f", 0.1))[0]
    )


WORD = st.text(st.sampled_from(list("HIRCODhr0123456789:.-fuistrabcd x=na|")), max_size=14)


@given(st.one_of(WORD, st.text(max_size=20)))
def test_any_text_is_an_address_or_an_address_error(text: str):
    try:
        address = parse(text)
    except AddressError:
        return
    assert 0 <= address.start < address.end <= 65536


PLACES = st.tuples(st.sampled_from(list(Table)), st.integers(0, 65535))


@given(PLACES)
def test_modicon_references_mean_what_they_mean(place: tuple[Table, int]):
    table, start = place
    digit = {"CO": "0", "DI": "1", "IR": "3", "HR": "4"}[table]
    six = parse(f"{digit}{start + 1:05d}")
    assert (six.table, six.start) == (table, start)
    if start < 9999:
        five = parse(f"{digit}{start + 1:04d}")
        assert (five.table, five.start) == (table, start)
