"""What a driver keeps over its connections: the plan as the device let itself be read, counters, what was said."""

from __future__ import annotations

from collections import deque

import structlog

from gatewayd.log import Trouble
from gatewayd.points.types import Batch
from gatewayd.protocols.modbus.plan import Block

log = structlog.get_logger("modbus")

COUNTERS = (
    "connections",
    "polls",
    "late_polls",
    "requests",
    "timeouts",
    "bad_answers",
    "exceptions",
    "unasked",
    "noise",
    "missed_blocks",
    "split_blocks",
    "refused_points",
    "samples",
    "waiting_events",
    "lost_events",
    "commands",
    "unclear_commands",
    "pulses",
    "pulses_stuck",
    "releases_failed",
)
"""docs/modbus.md says what each counts."""


class Memory:
    """What one driver remembers.

    blocks:  the requests of one poll
    waiting: batches with events that the disk has not taken yet
    lost:    changes that found no room there and are not told of yet
    """

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.counts = dict.fromkeys(COUNTERS, 0)
        self.waiting: deque[Batch] = deque()
        self.lost = 0
        self.trouble = Trouble(log)
