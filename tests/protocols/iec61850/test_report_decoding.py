"""Reports built octet by octet with the library's own values: what no server at hand sends."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatewayd.points import quality as q
from gatewayd.points.types import Kind
from gatewayd.protocols.iec61850 import mapping, reports, values
from gatewayd.protocols.iec61850.address import parse_block
from gatewayd.protocols.iec61850.lib import native
from gatewayd.protocols.iec61850.reports import Assembler, MalformedReportError, OptFlds, Trigger
from gatewayd.protocols.iec61850.values import Node
from tests.protocols.iec61850.support import BRCB, LD, point

MEMBERS = 6
OBJECT = Node(
    "", values.STRUCTURE, 3,
    (Node("stVal", values.BOOLEAN, 1), Node("q", values.BIT_STRING, -13), Node("t", values.UTC_TIME, 0)),
)  # fmt: skip
STAMP = 1_700_000_000_000


def layout_of(_domain: str, item: str) -> Node | None:
    return OBJECT if "$ST$Ind" in item else None


PLACES = [mapping.locate(point(row, Kind.BINARY, f"{LD}/GGIO1.Ind{row}"), layout_of) for row in range(MEMBERS)]
MAP = mapping.data_set([(LD, f"GGIO1$ST$Ind{row}") for row in range(MEMBERS)], PLACES)


def status(value: bool, bits: int = 0) -> int:
    return values.structure([values.boolean(value), values.bits(bits, 13), native.MmsValue_newUtcTimeByMsTime(STAMP)])


def segment(
    indices: list[int], *, sequence: int, sub: int, more: bool, reason: int = Trigger.DATA_CHANGE, size: int = MEMBERS
) -> int:
    flags = OptFlds.SEQUENCE | OptFlds.REASON | OptFlds.ENTRY_ID | OptFlds.SEGMENTATION
    included = sum(1 << index for index in indices)
    return values.structure(
        [
            values.text("ST"), values.bits(int(flags), 10), values.unsigned(sequence), values.octets(b"entry-01"),
            values.unsigned(sub), values.boolean(more), values.bits(included, size),
            *(status(True) for _ in indices),
            *(values.bits(int(reason), 6) for _ in indices),
        ]
    )  # fmt: skip


@pytest.fixture
def assembler() -> Assembler:
    return Assembler(parse_block(BRCB), MAP)


def add(assembler: Assembler, value: int) -> reports.Assembled | None:
    try:
        return assembler.add(reports.parse(value, MEMBERS), 1)
    finally:
        native.MmsValue_delete(value)


def test_segments_are_one_report(assembler: Assembler):
    assert add(assembler, segment([0, 1], sequence=7, sub=0, more=True)) is None
    assert add(assembler, segment([2, 3], sequence=7, sub=1, more=True)) is None
    whole = add(assembler, segment([4, 5], sequence=7, sub=2, more=False))
    assert whole is not None
    assert [sample.point for sample in whole.changed] == [0, 1, 2, 3, 4, 5]
    assert (whole.entry_id, whole.segments, assembler.broken_segments) == (b"entry-01", 3, 0)
    assert {sample.time_ns for sample in whole.changed} == {STAMP * 1_000_000}


def test_a_missing_segment_is_noticed_and_what_follows_is_whole(assembler: Assembler):
    add(assembler, segment([0], sequence=1, sub=0, more=True))
    add(assembler, segment([2], sequence=1, sub=2, more=False))
    assert assembler.broken_segments == 1
    whole = add(assembler, segment([5], sequence=2, sub=0, more=False))
    assert whole is not None
    assert [sample.point for sample in whole.changed] == [5]


def test_a_report_that_begins_before_the_last_has_ended_drops_the_beginning(assembler: Assembler):
    add(assembler, segment([0], sequence=1, sub=0, more=True))
    whole = add(assembler, segment([1], sequence=2, sub=0, more=False))
    assert whole is not None
    assert [sample.point for sample in whole.changed] == [1]
    assert assembler.broken_segments == 1


def test_interrogation_is_static_and_said(assembler: Assembler):
    whole = add(assembler, segment([0], sequence=1, sub=0, more=False, reason=Trigger.INTERROGATION))
    assert whole is not None
    assert (len(whole.changed), len(whole.static), whole.interrogated) == (0, 1, True)


def test_a_data_set_of_another_size_is_refused():
    value = segment([0], sequence=1, sub=0, more=False, size=MEMBERS + 1)
    with pytest.raises(MalformedReportError, match=f"{MEMBERS + 1} members"):
        reports.parse(value, MEMBERS)
    native.MmsValue_delete(value)


def test_a_value_of_another_type_than_its_description_is_no_value():
    extract = mapping.Extract(0, (0,), (1,), (2,))
    for wrong in (
        values.structure([values.boolean(True)]),
        values.boolean(True),
        values.structure([values.structure([]), values.boolean(True), values.boolean(True)]),
        values.structure([values.boolean(True), values.bits(0, 12), values.octets(b"x")]),
    ):
        sample = mapping.take(extract, wrong, 9)
        assert not q.usable(sample.quality)
        assert sample.time_ns == 9
        native.MmsValue_delete(wrong)


def _leaf() -> st.SearchStrategy[object]:
    return st.one_of(
        st.booleans().map(lambda v: ("b", v)),
        st.integers(-(2**31), 2**31 - 1).map(lambda v: ("i", v)),
        st.integers(0, 2**32 - 1).map(lambda v: ("u", v)),
        st.binary(max_size=80).map(lambda v: ("o", v)),
        st.sampled_from(["ST", "", "x" * 200]).map(lambda v: ("t", v)),
        st.tuples(st.integers(0, 2**31), st.integers(1, 40)).map(lambda v: ("s", v)),
    )


def make(part: object) -> int:
    kind, value = part  # type: ignore[misc]
    if kind == "l":
        return values.structure([make(inner) for inner in value])
    makers = {"b": values.boolean, "i": values.integer, "u": values.unsigned, "o": values.octets, "t": values.text}
    return values.bits(*value) if kind == "s" else makers[kind](value)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(
        st.recursive(_leaf(), lambda inner: st.lists(inner, max_size=4).map(lambda v: ("l", v)), max_leaves=6),
        max_size=16,
    )
)
def test_no_report_whatever_it_holds_does_more_than_be_refused(parts: list[object]):
    value = values.structure([make(part) for part in parts])
    assembler = Assembler(parse_block(BRCB), MAP)
    try:
        reports.rpt_id_of(value)
        assembler.add(reports.parse(value, MEMBERS), 1)
    except MalformedReportError:
        pass
    finally:
        native.MmsValue_delete(value)


def test_a_report_whose_segments_never_end_is_given_up(assembler: Assembler):
    everything = list(range(MEMBERS))
    add(assembler, segment(everything, sequence=1, sub=0, more=True))
    with pytest.raises(MalformedReportError, match="more than the 6 members"):
        add(assembler, segment([0], sequence=1, sub=1, more=True))
    whole = add(assembler, segment(everything, sequence=2, sub=0, more=False))
    assert whole is not None
    assert len(whole.changed) == MEMBERS


def test_an_element_the_library_could_not_decode_is_a_malformed_report(assembler: Assembler):
    """It leaves a hole in the list (found by `make fuzz`), on which its own encoder brings the process down."""
    report = segment([0, 1], sequence=1, sub=0, more=False)
    native.MmsValue_setElement(report, native.MmsValue_getArraySize(report) - 1, None)
    with pytest.raises(MalformedReportError, match="could not be decoded"):
        add(assembler, report)
    data_set = native.MmsValue_createEmptyStructure(MEMBERS)
    with pytest.raises(MalformedReportError, match="could not be decoded"):
        assembler.read(data_set, 1)
    native.MmsValue_delete(data_set)
