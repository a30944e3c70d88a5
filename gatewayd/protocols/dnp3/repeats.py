"""Events that come a second time, because the confirm for them was never sent or got lost. Pure.

With every fragment of events that goes to disk goes a mark of it (the cursor `fragment`): how many events, and a hash
of them. Events that begin with exactly the marked ones are the same again:

* after a reconnect the first fragment with events is compared: the outstation sends what was not confirmed once more,
  and what happened since comes after it;
* later a whole fragment is compared: an unsolicited response that is retried because the disk was slow.

As long as the process lives, the events of the last fragment are known one by one: an outstation may pack what was not
confirmed into another fragment, with newer events behind it or, after an overflow, without the oldest. Those that carry
the device's time are recognised wherever they stand (`sift`).

Repeated events that all carry the device's time are dropped. Events without time may recur octet for octet, so those
are delivered, marked as possibly delivered before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from gatewayd.points import quality as q
from gatewayd.points.types import Sample, Value

SOURCE = "fragment"
"""Name of the cursor."""
_DIGEST = 16


Fact = tuple[int, Value, int, int]
"""Code of the row, value, flags, device time in ns (0: none): what makes two events the same."""


class Mark(NamedTuple):
    """Some events: how many and a hash of them (address, value, flags, device time)."""

    events: int
    digest: bytes

    def encode(self) -> bytes:
        """As it is kept in a cursor."""
        return self.events.to_bytes(4, "big") + self.digest


def decode(data: bytes) -> Mark | None:
    """The mark in a cursor, None where it is none of ours."""
    if len(data) != 4 + _DIGEST:
        return None
    return Mark(int.from_bytes(data[:4], "big"), data[4:])


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
    """Events of a fragment without those that are on disk. doubtful: the first that many may be there."""

    samples: list[Sample]
    doubtful: int


def sift(
    samples: Sequence[Sample], given: Sequence[Fact], stored: Sequence[Fact], perhaps: Sequence[Fact]
) -> Sifted | None:
    """Leave out timed events that are on disk; None where the first of them is new: then all are.

    An outstation that sends again begins with its oldest; a contact that is in the same state twice within a
    millisecond does not.

    given: facts of the samples; stored, perhaps: facts of what came last and is on disk, may be on disk
    """
    if not given or not given[0][3] or (given[0] not in stored and given[0] not in perhaps):
        return None
    before = {fact for fact in stored if fact[3]}
    unsure = {fact for fact in perhaps if fact[3]}
    left = [(sample, fact) for sample, fact in zip(samples, given, strict=True) if fact not in before]
    doubtful = max((at + 1 for at, (_, fact) in enumerate(left) if fact in unsure), default=0)
    return Sifted([sample for sample, _ in left], doubtful)


def timed(samples: Sequence[Sample]) -> bool:
    """Every one of them carries the device's own time."""
    return not any(sample.quality & q.RECEIPT for sample in samples)
