from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Native, Reply, Step, StepKind, Verdict
from gatewayd.points.types import Batch, Cursor, Link, Sample
from gatewayd.protocols import wire
from tests.protocols.support import command, device

VALUES = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text())
SAMPLES = st.builds(
    Sample, st.integers(0, 1 << 20), VALUES, st.integers(0, (1 << 31) - 1), st.integers(0, 1 << 16),
    st.integers(0, 1 << 62),
)  # fmt: skip
BATCHES = st.builds(
    Batch, st.text(), st.lists(SAMPLES), st.integers(0, 1 << 62), st.booleans(), st.booleans(), st.integers(0, 1 << 62)
)
TO_CORE = st.one_of(
    st.builds(wire.State, BATCHES),
    st.builds(wire.Events, st.integers(0, 1 << 40), BATCHES, st.none() | st.builds(Cursor, st.text(), st.binary())),
    st.builds(wire.LinkIs, st.text(), st.sampled_from(Link), st.text()),
    st.builds(wire.GapAt, st.text(), st.text()),
    st.just(wire.Progressed("tx", Step(StepKind.TERMINATED_NEGATIVE, Reason.LOCAL, Native("iec61850", 2, "x")))),
    st.just(wire.Answered(7, Reply(Verdict.UNKNOWN, Reason.UNKNOWN, Native("dnp3", 127, "UNDEFINED"), 12.5, True))),
    st.builds(wire.Stopped, st.text()),
    st.builds(wire.Pong, st.integers(0, 99), st.dictionaries(st.text(), st.dictionaries(st.text(), st.integers(0, 9)))),
)


@given(st.lists(TO_CORE, max_size=5), st.data())
def test_what_a_worker_sends_arrives_whole_however_it_is_cut(messages: list[wire.Message], data: st.DataObject) -> None:
    stream = b"".join(wire.pack(message) for message in messages)
    inbox = wire.CoreInbox()
    received: list[wire.Message] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        received += inbox.messages(stream[:size])
        stream = stream[size:]
    assert received == messages


def test_what_the_core_sends_arrives_whole() -> None:
    messages = [
        wire.Start(device("FDR12", options={"unit": 1}), [Cursor("fragment", b"\x00\xff")]),
        wire.Stop("FDR12"),
        wire.Ask(3, "operate", "FDR12", command()),
        wire.Ask(4, "interrogate", "FDR12"),
        wire.Committed(9),
        wire.Ping(1),
    ]
    inbox = wire.WorkerInbox()
    assert list(inbox.messages(b"".join(wire.pack(message) for message in messages))) == messages


@given(st.binary(max_size=64))
def test_rubbish_is_a_broken_stream_and_nothing_else(data: bytes) -> None:
    for inbox in (wire.CoreInbox(), wire.WorkerInbox()):
        try:
            assert list(inbox.messages(data)) == []
        except wire.BrokenStreamError:
            pass


def test_a_frame_that_claims_to_be_huge_is_not_waited_for() -> None:
    with pytest.raises(wire.BrokenStreamError, match="at most"):
        list(wire.CoreInbox().messages(b"\xff\xff\xff\xff"))
