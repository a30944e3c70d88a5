from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.points import quality as q
from gatewayd.protocols.modbus.address import Address, Table, parse
from gatewayd.protocols.modbus.plan import ABSENT, BEYOND, Block, Field, Limits, decoder, plan, split
from gatewayd.protocols.modbus.values import ORDERS, TYPES, from_octets, to_octets, type_named

STANDARD = Limits(8, 125, 2000)


def fields(*texts: str) -> list[Field]:
    return [Field(row, parse(text)) for row, text in enumerate(texts)]


def shown(blocks: list[Block]) -> list[str]:
    return [str(block) for block in blocks]


@pytest.mark.parametrize(
    ("texts", "limits", "blocks"),
    [
        (["HR:0", "HR:1", "HR:2:f32"], STANDARD, ["HR:0 to 3"]),
        (["HR:2:f32", "HR:0", "HR:0.5", "HR:0:u32"], STANDARD, ["HR:0 to 3"]),
        (["HR:0", "HR:9"], STANDARD, ["HR:0 to 9"]),
        (["HR:0", "HR:10"], STANDARD, ["HR:0", "HR:10"]),
        (["HR:0", "HR:2"], Limits(0, 125, 2000), ["HR:0", "HR:2"]),
        (["HR:0", "IR:1"], STANDARD, ["HR:0", "IR:1"]),
        (["DI:0", "DI:129"], STANDARD, ["DI:0 to 129"]),
        (["DI:0", "DI:130"], STANDARD, ["DI:0", "DI:130"]),
        ([f"HR:{at}" for at in range(126)], STANDARD, ["HR:0 to 124", "HR:125"]),
        ([f"HR:{2 * at}:f32" for at in range(63)], STANDARD, ["HR:0 to 123", "HR:124 to 125"]),
        ([f"CO:{at}" for at in range(2001)], STANDARD, ["CO:0 to 1999", "CO:2000"]),
        ([f"HR:{at}" for at in range(25)], Limits(8, 10, 2000), ["HR:0 to 9", "HR:10 to 19", "HR:20 to 24"]),
    ],
)
def test_as_few_requests_as_the_limits_allow(texts: list[str], limits: Limits, blocks: list[str]):
    assert shown(plan(fields(*texts), limits)) == blocks


PLACED = st.builds(
    lambda table, start, name: parse(f"{table}:{start}" + ("" if table.of_bits else f":{name}")),
    st.sampled_from(list(Table)),
    st.one_of(st.integers(0, 300), st.integers(0, 65_400)),
    st.sampled_from(["u16", "i32", "f32", "u64", "str3", "str16"]),
)
LIMITS = st.builds(Limits, st.integers(0, 124), st.integers(8, 125), st.integers(1, 2000))


@given(st.lists(PLACED, max_size=60), LIMITS)
def test_every_point_is_read_once_and_no_request_is_too_large(addresses: list[Address], limits: Limits):
    points = [Field(row, address) for row, address in enumerate(addresses)]
    blocks = plan(points, limits)
    assert sorted(field.row for block in blocks for field in block.fields) == list(range(len(points)))
    for block in blocks:
        gap, most = limits.of(block.table)
        assert 1 <= block.size <= most
        assert block.start + block.size <= 65536
        assert block.request().answer <= 253
        end = block.start
        for field in block.fields:
            assert field.address.table is block.table
            assert block.start <= field.address.start
            assert field.address.end <= block.start + block.size
            assert field.address.start - end <= gap
            end = max(end, field.address.end)
        assert end == block.start + block.size


@given(st.lists(PLACED, min_size=1, max_size=40), LIMITS)
def test_splitting_ends_at_single_points_and_loses_none(addresses: list[Address], limits: Limits):
    pending = plan([Field(row, address) for row, address in enumerate(addresses)], limits)
    ends = []
    while pending:
        block = pending.pop()
        parts = split(block)
        if not parts:
            ends.append(block)
            continue
        assert [field for part in parts for field in part.fields] == list(block.fields)
        for part in parts:
            assert (part.size, len(part.fields)) != (block.size, len(block.fields))
        pending += parts
    assert sorted(field.row for block in ends for field in block.fields) == list(range(len(addresses)))
    for block in ends:  # what cannot be cut: one point, or points that share registers
        reach = block.fields[0].address.end
        for field in block.fields[1:]:
            assert field.address.start < reach
            reach = max(reach, field.address.end)


def test_a_block_is_split_at_its_gaps_first_then_in_halves():
    (block,) = plan(fields("HR:0:f32", "HR:2:f32", "HR:8", "HR:9", "HR:10", "HR:11"), STANDARD)
    first, second = split(block)
    assert shown([first, second]) == ["HR:0 to 3", "HR:8 to 11"]
    assert shown(split(first)) == ["HR:0 to 1", "HR:2 to 3"]
    assert shown(split(second)) == ["HR:8 to 9", "HR:10 to 11"]
    assert split(split(first)[0]) == []


# ---- decoding


def decoded(octets: str | bytes, *texts: str, sentinels: bool = False):
    blocks = plan(fields(*texts), STANDARD)
    assert len(blocks) == 1
    data = bytes.fromhex(octets) if isinstance(octets, str) else octets
    values, faults = decoder(blocks[0], sentinels=sentinels)(data)
    rows = [field.row for field in blocks[0].fields]
    return dict(zip(rows, values, strict=True)), {rows[at]: bits for at, bits in faults.items()}


def test_registers_bits_and_texts_of_one_block():
    data = struct.pack(">HhfQ6s", 7, -7, 1.5, 2**60, b"SN 1\0x")
    values, faults = decoded(
        data, "HR:0", "HR:1:i16", "HR:2:f32", "HR:4:u64", "HR:8:str6", "HR:0.0", "HR:0.3", "HR:0.1-2"
    )
    assert values == {0: 7, 1: -7, 2: 1.5, 3: 2**60, 4: "SN 1", 5: True, 6: False, 7: 3}
    assert faults == {}


def test_gaps_orders_and_overlaps():
    values, _ = decoded("0001 ffff 0000 3fc0 0002", "HR:0", "HR:2:f32:cdab", "HR:2", "HR:3", "HR:4:u16:ba")
    assert values == {0: 1, 1: 1.5, 2: 0, 3: 0x3FC0, 4: 0x0200}


def test_coils():
    texts = [f"CO:{at}" for at in (10, 11, 17, 18, 25)]
    values, faults = decoded("8381", *texts)
    assert values == {0: True, 1: True, 2: True, 3: True, 4: True}
    values, _ = decoded("7c7e", *texts)
    assert set(values.values()) == {False}
    assert faults == {}
    assert decoded("01", "DI:5") == ({0: True}, {})


def test_nan_and_infinity_are_absent():
    values, faults = decoded(
        struct.pack(">4f", 1, float("nan"), float("-inf"), 2), *(f"IR:{n}:f32" for n in (0, 2, 4, 6))
    )
    assert values == {0: 1, 1: None, 2: None, 3: 2}
    assert faults == {1: ABSENT, 2: ABSENT}
    assert ABSENT == q.INVALID | q.OUT_OF_RANGE


def test_floats_so_large_that_their_sum_is_infinite_are_still_values():
    values, faults = decoded(struct.pack(">2d", 1.7e308, 1.7e308), "IR:0:f64", "IR:4:f64")
    assert values == {0: 1.7e308, 1: 1.7e308}
    assert faults == {}


def test_sentinels_of_the_list_and_of_sunspec():
    texts = ["HR:0:u16 na=0xFFFF", "HR:1:i16 na=-1|5", "HR:2:u16", "HR:3:i16", "HR:4:u32"]
    data = "ffff 0005 ffff 8000 ffffffff"
    values, faults = decoded(data, *texts)
    assert values == {0: None, 1: None, 2: 65535, 3: -32768, 4: 2**32 - 1}
    assert faults == {0: ABSENT, 1: ABSENT}
    values, faults = decoded(data, *texts, sentinels=True)
    assert set(values.values()) == {None}
    assert set(faults.values()) == {ABSENT}


def test_a_value_outside_its_range_is_questionable_and_kept():
    values, faults = decoded("0000 0064 0065 ffff", *(f"HR:{at}:i16 min=0 max=100" for at in range(4)))
    assert values == {0: 0, 1: 100, 2: 101, 3: -1}
    assert faults == {2: BEYOND, 3: BEYOND}


FIELD = st.tuples(
    st.integers(0, 110),
    st.sampled_from([*TYPES, "str1", "str5", "str8"]),
    st.sampled_from(list(ORDERS)),
)


@given(st.lists(FIELD, min_size=1, max_size=30), st.binary(min_size=250, max_size=250))
def test_a_compiled_decoder_agrees_with_reading_value_by_value(given_fields, data: bytes):
    """Any types, orders and overlaps, against the plain definition of each value."""
    places = []
    for row, (start, name, order) in enumerate(given_fields):
        kind = type_named(name)
        chosen = ORDERS[order]
        if kind.is_text or kind.registers == 1:
            chosen = chosen._replace(words=False)
        places.append(Field(row, Address(Table.HR, start, kind, chosen)))
    for block in plan(places, Limits(124, 125, 2000)):
        octets = data[2 * block.start : 2 * (block.start + block.size)]
        values, faults = decoder(block)(octets)
        for at, (field, value) in enumerate(zip(block.fields, values, strict=True)):
            kind = field.address.type
            assert kind is not None
            own = data[2 * field.address.start : 2 * field.address.end]
            expected = from_octets(own, kind, field.address.order)
            if expected != expected or expected in (float("inf"), float("-inf")):
                assert (value, faults[at]) == (None, ABSENT)
            else:
                assert value == expected
                assert type(value) is type(expected)
                if not kind.is_text:  # and back again to the same registers, but for the half of an odd one
                    assert to_octets(value, kind, field.address.order) == own


@given(st.lists(st.integers(0, 500), min_size=1, max_size=50, unique=True), st.binary(min_size=63, max_size=63))
def test_compiled_bits_agree_with_reading_bit_by_bit(starts: list[int], data: bytes):
    for block in plan([Field(row, Address(Table.DI, at)) for row, at in enumerate(starts)], Limits(124, 125, 2000)):
        packed = int.from_bytes(data, "little") >> block.start
        octets = (packed & (1 << block.size) - 1).to_bytes((block.size + 7) // 8, "little")
        values, _ = decoder(block)(octets)
        for field, value in zip(block.fields, values, strict=True):
            assert value is (data[field.address.start // 8] >> field.address.start % 8 & 1 == 1)
