"""Events that come a second time, because the confirm for them was never sent or got lost. Pure.

With every fragment of events that goes to disk goes a mark of it (the cursor `fragment`): how many events, and a hash
of them. Events that begin with exactly the marked ones are the same again:

* after a reconnect the first fragment with events is compared: the outstation sends what was not confirmed once more,
  and what happened since comes after it;
* later a whole fragment is compared: an unsolicited response that is retried because the disk was slow.

Repeated events that all carry the device's time are dropped. Events without time may recur octet for octet, so those
are delivered, marked as possibly delivered before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from gatewayd.points import quality as q
from gatewayd.points.types import Sample

SOURCE = "fragment"
"""Name of the cursor."""
_DIGEST = 16


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


def mark(samples: Sequence[Sample], codes: Mapping[int, int]) -> Mark:
    """The mark of events. codes: a number for each row that does not change with the configuration (its address)."""
    facts = [
        (codes[point], value, native, 0 if quality & q.RECEIPT else time_ns)
        for point, value, quality, native, time_ns in samples
    ]
    digest = hashlib.blake2b(msgspec.msgpack.encode(facts), digest_size=_DIGEST).digest()
    return Mark(len(facts), digest)


def known(samples: Sequence[Sample], whole: Mark, last: Mark | None, codes: Mapping[int, int], *, fresh: bool) -> int:
    """How many events at the beginning are those of the mark `last`.

    whole: the mark of all the samples; fresh: they are the first events since the connection was made
    """
    if last is None or not last.events or last.events > len(samples):
        return 0
    if last.events == len(samples):
        return last.events if whole == last else 0
    return last.events if fresh and mark(samples[: last.events], codes) == last else 0


def timed(samples: Sequence[Sample]) -> bool:
    """Every one of them carries the device's own time."""
    return not any(sample.quality & q.RECEIPT for sample in samples)
