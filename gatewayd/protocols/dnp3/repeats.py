"""Events that come a second time, because the confirm for them was never sent or got lost. Pure.

With every fragment of events that goes to disk goes a mark of it (the cursor `fragment`): how many events, and a hash
of them. Events that begin with exactly the marked ones are the same again:

* after a reconnect the first fragment with events is compared: the outstation sends what was not confirmed once more,
  and what happened since comes after it;
* later a whole fragment is compared: an unsolicited response that is retried because the disk was slow.

The events of the last fragment are known one by one, in the process and in the cursor: an outstation may pack what was
not confirmed into another fragment, with newer events behind it or, after an overflow, without the oldest. Those that
carry the device's time are recognised wherever they stand (`sift`).

Repeated events that all carry the device's time are dropped. Events without time may recur octet for octet, so those
are delivered, marked as possibly delivered before.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from gatewayd.points import quality as q
from gatewayd.points.types import Sample, Value

SOURCE = "fragment"
"""Name of the cursor."""
_DIGEST = 16
MOST_KEPT, MOST_KEPT_OCTETS = 1024, 32 * 1024
"""Events known one by one, and octets of them, that go to disk with a mark; a fragment has 2048 octets."""


Fact = tuple[int, Value, int, int]
"""Code of the row, value, flags, device time in ns (0: none): what makes two events the same."""
_FACTS = msgspec.msgpack.Decoder(list[Fact])


class Mark(NamedTuple):
    """Some events: how many and a hash of them (address, value, flags, device time)."""

    events: int
    digest: bytes


class Kept(NamedTuple):
    """What a cursor holds. left_out: events that are not known one by one, because they are too many."""

    data: bytes
    left_out: int


def encode(mark: Mark, stored: Sequence[Fact]) -> Kept:
    """A mark and the events that are known one by one, the newest of them, as they are kept in a cursor."""
    head = mark.events.to_bytes(4, "big") + mark.digest
    kept = stored[-MOST_KEPT:]
    octets = msgspec.msgpack.encode(kept)
    if len(octets) > MOST_KEPT_OCTETS:  # long texts
        return Kept(head, len(stored))
    return Kept(head + octets, len(stored) - len(kept))


def decode(data: bytes) -> tuple[Mark | None, list[Fact]]:
    """The mark and the events of a cursor: None and none where it is none of ours; versions before kept no events."""
    end = 4 + _DIGEST
    if len(data) < end:
        return None, []
    mark = Mark(int.from_bytes(data[:4], "big"), data[4:end])
    if len(data) == end:
        return mark, []
    try:
        return mark, _FACTS.decode(data[end:])
    except msgspec.MsgspecError:
        return None, []


def facts(samples: Sequence[Sample], codes: Mapping[int, int]) -> list[Fact]:
    """What makes two events the same. codes: a number for each row that outlives a configuration (its address)."""
    return [
        (codes[point], value, native, 0 if quality & q.RECEIPT else time_ns)
        for point, value, quality, native, time_ns in samples
    ]


def mark(samples: Sequence[Sample], codes: Mapping[int, int]) -> Mark:
    """The mark of events."""
    return mark_of(facts(samples, codes))


def mark_of(given: Sequence[Fact]) -> Mark:
    """The mark of events by their facts."""
    return Mark(len(given), hashlib.blake2b(msgspec.msgpack.encode(given), digest_size=_DIGEST).digest())


def known(samples: Sequence[Sample], whole: Mark, last: Mark | None, codes: Mapping[int, int], *, fresh: bool) -> int:
    """How many events at the beginning are those of the mark `last`.

    whole: the mark of all the samples; fresh: they are the first events since the connection was made
    """
    if last is None or not last.events or last.events > len(samples):
        return 0
    if last.events == len(samples):
        return last.events if whole == last else 0
    return last.events if fresh and mark(samples[: last.events], codes) == last else 0


class Sifted(NamedTuple):
    """Events of a fragment without those that are on disk.

    doubtful: the first that many may be there; left: facts of all; recalled: what may still come again
    """

    samples: list[Sample]
    doubtful: int
    left: list[Fact]
    recalled: list[Fact]


def sift(
    samples: Sequence[Sample],
    given: Sequence[Fact],
    stored: Sequence[Fact],
    perhaps: Sequence[Fact],
    recalled: Sequence[Fact] = (),
) -> Sifted | None:
    """Leave out timed events that are on disk; None where none is, or the first of them is new: then all are.

    An outstation that sends again begins with its oldest; a contact that is in the same state twice within a
    millisecond does not. No fragment has one event twice, so each stored one is left out once.

    given: facts of the samples; stored, perhaps: facts of what came last and is on disk, may be on disk
    recalled: facts on disk of an earlier connection or run, that have not come again yet: while there are some, a
              fragment need not begin with one, and those without time may be there, too, each once
    """
    if not given:
        return None
    if not recalled and (not given[0][3] or (given[0] not in stored and given[0] not in perhaps)):
        return None
    before = Counter(fact for fact in stored if fact[3])
    unsure = {fact for fact in perhaps if fact[3]}
    pending = Counter(recalled)
    left: list[tuple[Sample, Fact]] = []
    doubtful = 0
    for sample, fact in zip(samples, given, strict=True):
        awaited = pending[fact] > 0
        pending[fact] -= awaited
        if before[fact]:
            before[fact] -= 1
            continue
        left.append((sample, fact))
        if fact in unsure or (awaited and not fact[3]):
            doubtful = len(left)
    if len(left) == len(given) and not doubtful:
        return None
    return Sifted([sample for sample, _ in left], doubtful, [fact for _, fact in left], list(pending.elements()))


def timed(samples: Sequence[Sample]) -> bool:
    """Every one of them carries the device's own time."""
    return not any(sample.quality & q.RECEIPT for sample in samples)
