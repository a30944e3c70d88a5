"""Value by value: what the tables of docs/quality-and-time.md say arrives at a consumer, whole and no better."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from itertools import combinations

import pytest

from gatewayd.mqtt import contract
from gatewayd.points import quality as q
from gatewayd.points.database import PointState
from gatewayd.points.types import Kind, PointSpec
from gatewayd.protocols.iec61850 import quality as iec61850
from gatewayd.protocols.modbus.outcome import AS_MISSED, GOOD, LOST, MISSED, read_quality

SPEC = PointSpec(row=0, name="F12/P", kind=Kind.ANALOG, device="F12", address="AI:0", event=True)
BITS = {name: bit for bit, name in q.FLAG_NAMES.items()}
VALIDITY = {"good": q.GOOD, "questionable": q.QUESTIONABLE, "invalid": q.INVALID}


def understood(record: dict[str, object]) -> int:
    """The quality as a consumer rebuilds it from what docs/mqtt.md says of a record."""
    found = VALIDITY[str(record["quality"])]
    for name in record.get("flags", ()):  # type: ignore[attr-defined]
        found |= BITS[name]
    found |= q.SUBSTITUTED if record.get("source") == "substituted" else 0
    found |= q.TEST if record.get("test") else 0
    found |= q.BLOCKED if record.get("blocked") else 0
    found |= q.RECEIPT if record["t_src"] == "gateway" else 0
    return found | {"no": q.SYNC_NO, "unknown": q.SYNC_UNKNOWN}.get(str(record.get("t_sync")), 0)


def arrives(qualities: Iterable[int]) -> None:
    """Every quality in all three forms of a record: event, state message, snapshot."""
    chosen = list(qualities)
    now = time.time_ns()
    states = [PointState(value=1.5, quality=one, time_ns=now, recv_ns=now + 5) for one in chosen]
    specs = [SPEC] * len(states)
    found = {"event": [json.loads(contract.point_event(SPEC, state)) for state in states]}
    found["state"] = [r for m, _ in contract.state_messages(specs, states) for r in json.loads(m)["points"]]
    found["snapshot"] = [r for m in contract.snapshot_messages(specs, states) for r in json.loads(m)["points"]]
    for form, records in found.items():
        assert list(map(understood, records)) == [_as_said(one) for one in chosen], form


def _as_said(quality: int) -> int:
    """Both unknown and no: no is the worse word, and the one that is said."""
    return quality & ~q.SYNC_UNKNOWN if quality & q.SYNC_NO else quality


def test_each_of_the_8192_iec_61850_qualities_arrives() -> None:
    arrives(iec61850.COMMON[bits] for bits in range(1 << 13))


def test_each_of_the_256_iec_61850_time_qualities_arrives() -> None:
    arrives(iec61850.TIME[octet] for octet in range(256))


def test_each_single_bit_and_each_pair_arrives_with_each_validity() -> None:
    bits = [*q.FLAG_NAMES, q.SUBSTITUTED, q.TEST, q.BLOCKED, q.RECEIPT, q.SYNC_NO, q.SYNC_UNKNOWN]
    sets = [0, *bits, *(a | b for a, b in combinations(bits, 2))]
    arrives(validity | one for validity in VALIDITY.values() for one in sets)


def test_each_modbus_result_is_what_the_table_says_and_arrives() -> None:
    config, failure = q.INVALID | q.CONFIG_ERROR, q.INVALID | q.FAILURE
    said = {1: config, 2: config, 3: config, 0x0A: q.QUESTIONABLE | q.COMM_LOST, 0x0B: q.QUESTIONABLE | q.COMM_LOST}
    always = q.SAMPLED | q.RECEIPT
    for code in range(256):
        if code in AS_MISSED:
            continue
        assert read_quality(code) == said.get(code, failure) | always, f"exception {code:02X}"
        assert not q.usable(read_quality(code))
    assert set(AS_MISSED) == {5, 6}
    assert q.QUESTIONABLE | q.OLD_DATA | always == MISSED
    assert q.QUESTIONABLE | q.COMM_LOST | always == LOST
    assert q.usable(GOOD)
    arrives([GOOD, MISSED, LOST, q.START, *(read_quality(code) for code in range(256))])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1 << 64, "x" * 5000])
def test_a_value_json_cannot_carry_is_null_and_invalid_in_every_form(value: object) -> None:
    state = PointState(value=value, quality=q.GOOD, time_ns=1, recv_ns=1)  # type: ignore[arg-type]
    [(message, _)] = contract.state_messages([SPEC], [state])
    for record in (json.loads(contract.point_event(SPEC, state)), json.loads(message)["points"][0]):
        assert (record["value"], record["quality"]) == (None, "invalid")


def test_the_worst_of_two_is_never_better_than_either() -> None:
    some = [q.GOOD, q.START, LOST, *(iec61850.COMMON[bits] for bits in range(0, 1 << 13, 37))]
    for a in some:
        for b in some:
            both = q.worst(a, b)
            assert both & q.VALIDITY_MASK >= max(a & q.VALIDITY_MASK, b & q.VALIDITY_MASK)
            assert both & ~q.VALIDITY_MASK == (a | b) & ~q.VALIDITY_MASK
            assert q.usable(both) == (q.usable(a) and q.usable(b))
