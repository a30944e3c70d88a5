"""The short cut gives the same sample as the long way, for whatever a member holds, or none at all."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.protocols.iec61850 import mapping, quick, values
from gatewayd.protocols.iec61850.lib import native
from gatewayd.protocols.iec61850.mapping import Extract
from gatewayd.protocols.iec61850.quick import compile_quick
from gatewayd.protocols.iec61850.values import Node

NOW = 1_800_000_000_000_000_000
Q, T = Node("q", values.BIT_STRING, 13), Node("t", values.UTC_TIME, 8)
FLOAT32, FLOAT64 = Node("f", values.FLOAT, 32), Node("f", values.FLOAT, 64)
BOOLEAN, DBPOS = Node("stVal", values.BOOLEAN, 1), Node("stVal", values.BIT_STRING, 2)
INTEGER = Node("i", values.INTEGER, 32)


def structure(*children: Node) -> Node:
    return Node("", values.STRUCTURE, len(children), children)


def utc(octets: bytes) -> int:
    made = int(native.MmsValue_newUtcTimeByMsTime(0))
    import ctypes

    ctypes.memmove(native.MmsValue_getUtcTimeBuffer(made), octets, 8)
    return made


MAKE: dict[tuple[int, int], tuple[Callable[[Any], int], st.SearchStrategy[Any]]] = {
    (values.FLOAT, 32): (native.MmsValue_newFloat, st.floats(width=32)),
    (values.FLOAT, 64): (native.MmsValue_newDouble, st.floats()),
    (values.BOOLEAN, 1): (values.boolean, st.booleans()),
    (values.BIT_STRING, 2): (lambda bits: values.bits(bits, 2), st.integers(0, 3)),
    (values.BIT_STRING, 13): (lambda bits: values.bits(bits, 13), st.integers(0, (1 << 13) - 1)),
    (values.BIT_STRING, -13): (lambda bits: values.bits(bits, 13), st.integers(0, (1 << 13) - 1)),
    (values.BIT_STRING, -2): (lambda bits: values.bits(bits, 2), st.integers(0, 3)),
    (values.UTC_TIME, 8): (utc, st.binary(min_size=8, max_size=8)),
    (values.INTEGER, 32): (values.integer, st.integers(-(2**31), 2**31 - 1)),
}
LAYOUTS = [
    (structure(FLOAT32, Q, T), (0,), (1,), (2,)),
    (structure(FLOAT32, Node("q", values.BIT_STRING, -13), T), (0,), (1,), (2,)),
    (structure(Node("stVal", values.BIT_STRING, -2), Q, T), (0,), (1,), (2,)),
    (structure(structure(FLOAT32), Q, T), (0, 0), (1,), (2,)),
    (structure(structure(FLOAT64), Q, T), (0, 0), (1,), (2,)),
    (structure(BOOLEAN, Q, T), (0,), (1,), (2,)),
    (structure(DBPOS, Q, T), (0,), (1,), (2,)),
    (structure(Q, T, BOOLEAN), (2,), (0,), (1,)),
    (structure(BOOLEAN, structure(BOOLEAN, Q), T), (1, 0), (1, 1), (2,)),
    (structure(BOOLEAN, T), (0,), None, (1,)),
    (FLOAT32, (), None, None),
    (BOOLEAN, (), None, None),
]


def build(node: Node, data: st.DataObject) -> int:
    if node.type == values.STRUCTURE:
        return values.structure([build(child, data) for child in node.children])
    make, strategy = MAKE[node.type, node.size]
    return make(data.draw(strategy))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(LAYOUTS), st.data())
def test_the_same_sample_as_by_the_long_way(layout: Any, data: st.DataObject) -> None:
    node, value, mark, stamp = layout
    quick = compile_quick(7, node, value, mark, stamp)
    assert quick is not None
    made = build(node, data)
    try:
        assert quick.take(made, NOW) == mapping.take_long(Extract(7, value, mark, stamp), made, NOW)
    finally:
        native.MmsValue_delete(made)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.data())
def test_a_member_of_another_type_takes_the_long_way(announced: Any, sent: Any, data: st.DataObject) -> None:
    node, value, mark, stamp = announced
    extract = Extract(7, value, mark, stamp)
    quick = compile_quick(7, node, value, mark, stamp)
    assert quick is not None
    made = build(sent[0], data)
    try:
        found = quick.take(made, NOW)
        assert found is None or found == mapping.take_long(extract, made, NOW)
        assert mapping.take(extract._replace(quick=quick), made, NOW) == mapping.take_long(extract, made, NOW)
    finally:
        native.MmsValue_delete(made)


def test_an_access_error_takes_the_long_way() -> None:
    quick = compile_quick(7, structure(FLOAT32, Q, T), (0,), (1,), (2,))
    assert quick is not None
    make = native.MmsValue_newVisibleString(b"x" * 200)
    try:
        assert quick.take(make, NOW) is None
    finally:
        native.MmsValue_delete(make)


@pytest.mark.parametrize(
    ("node", "value", "mark", "stamp"),
    [
        (structure(INTEGER, Q, T), (0,), (1,), (2,)),
        (structure(FLOAT32, Node("d", values.VISIBLE_STRING, -255), Q), (0,), (2,), None),
        (structure(FLOAT32, DBPOS, T), (0,), (1,), (2,)),
        (structure(FLOAT32, Q, BOOLEAN), (0,), (1,), (2,)),
        (structure(T, Q), (0,), (1,), None),
        (structure(*[structure(FLOAT32, Q, T)] * 6), (0, 0), (0, 1), (0, 2)),
        (structure(FLOAT32, Q, T), (5,), (1,), (2,)),
        (structure(), (), None, None),
    ],
)
def test_no_short_cut_where_a_size_may_vary_or_a_type_is_another(
    node: Node, value: tuple[int, ...], mark: Any, stamp: Any
) -> None:
    assert compile_quick(7, node, value, mark, stamp) is None


def test_the_encoding_is_the_one_that_is_compared() -> None:
    """libiec61850 1.6.1: structure, float of 4 octets after the octet 8, 13 bits in 2 octets, UTC time."""
    quick = compile_quick(7, structure(structure(FLOAT32), Q, T), (0, 0), (1,), (2,))
    assert quick is not None
    assert quick.heads == (bytes.fromhex("a218a207870508"), bytes.fromhex("840303"), bytes.fromhex("9108"))
    assert quick.size == struct.calcsize(">7sf3sH2s8s") == 26


@pytest.mark.parametrize("known", [True, False])
def test_a_missing_element_is_seen_wherever_it_is(monkeypatch: pytest.MonkeyPatch, known: bool):
    assert quick._COMPONENTS is not None, "the layout of 1.6.1"
    if not known:
        monkeypatch.setattr(quick, "_COMPONENTS", None)
    for size in (0, 1, 2, 7, 300):
        whole = values.structure([values.boolean(True) for _ in range(size)])
        assert quick.complete(whole)
        for hole in {0, size // 2, size - 1} if size else ():
            native.MmsValue_setElement(whole, hole, None)
            assert not quick.complete(whole)
            native.MmsValue_setElement(whole, hole, values.boolean(False))
            assert quick.complete(whole)
        native.MmsValue_delete(whole)
