from __future__ import annotations

import pytest

from gatewayd.points import quality as q
from gatewayd.protocols.iec61850 import quality

# the bit string of 7-3 and 8-1: validity is its first two bits, 00 good, 01 invalid, 10 reserved, 11 questionable
VALIDITY = {"00": 0, "01": 2, "10": 2, "11": 1}
NAMES = (
    "overflow", "out-of-range", "bad-reference", "oscillatory", "failure", "old-data", "inconsistent", "inaccurate",
)  # fmt: skip
EXTRA = {
    "overflow": {"over-range"},
    "out-of-range": {"over-range"},
    "bad-reference": {"reference-err"},
    "oscillatory": {"chatter"},
}
NO_WORSE_THAN_INVALID = {"failure"}


def wire(bits: int) -> str:
    return "".join(str(bits >> position & 1) for position in range(13))


def expected(bits: int) -> tuple[int, set[str], bool, bool, bool]:
    text = wire(bits)
    validity, flags = VALIDITY[text[:2]], set()
    if text[:2] == "10":
        flags.add("inconsistent")
    for position, name in enumerate(NAMES, start=2):
        if text[position] == "1":
            flags |= {name} | EXTRA.get(name, set())
            validity = max(validity, 2 if name in NO_WORSE_THAN_INVALID else 1)
    if text[12] == "1":
        flags.add("old-data")
        validity = max(validity, 1)
    return validity, flags, text[10] == "1", text[11] == "1", text[12] == "1"


def test_all_8192_qualities_map_as_the_documented_table_says():
    for bits in range(1 << 13):
        common = quality.COMMON[bits]
        found = (
            common & q.VALIDITY_MASK,
            set(q.flags(common)),
            bool(common & q.SUBSTITUTED),
            bool(common & q.TEST),
            bool(common & q.BLOCKED),
        )
        assert found == expected(bits), f"{wire(bits)}: {q.describe(common)}"


def test_a_mapped_quality_is_usable_only_where_every_bit_is_zero():
    assert [bits for bits in range(1 << 13) if q.usable(quality.COMMON[bits])] == [0]


def test_the_order_of_the_validity_bits_is_the_wires():
    assert q.validity(quality.COMMON[0b10]) == "invalid"  # wire 01
    assert q.validity(quality.COMMON[0b11]) == "questionable"
    assert q.describe(quality.COMMON[0b01]) == "invalid (inconsistent)"  # wire 10, reserved


def test_a_time_is_read_to_the_nanosecond_and_zero_is_absent():
    octets = (1_700_000_000).to_bytes(4, "big") + (1 << 23).to_bytes(3, "big") + b"\x0a"
    assert quality.time(octets, 5) == (1_700_000_000_500_000_000, 0)
    assert quality.time(bytes(8), 5) == (5, q.RECEIPT)
    assert quality.time(bytes(7) + b"\x20", 5) == (5, q.RECEIPT)
    assert quality.time(None, 5) == (5, q.RECEIPT)


@pytest.mark.parametrize("octet", range(256))
def test_a_time_quality_never_hides_a_clock_out_of_step(octet: int):
    bits = quality.TIME[octet]
    assert bool(bits & q.SYNC_NO) == bool(octet & 0x60)
    assert bool(bits & q.UNSYNCHRONISED) == bool(octet & 0x60)
    assert bool(bits & q.SUSPECT) == bool(octet & 0x40)
    assert bool(bits & q.SYNC_UNKNOWN) == (not octet & 0x60 and 25 <= (octet & 0x1F) <= 30)
    assert not bits & q.VALIDITY_MASK
