"""What is asked of an outstation, and when. Pure: `now` in, the next job out; times are monotonic seconds.

At the beginning: DISABLE_UNSOLICITED, clear the restart indication where it stands, integrity poll, ENABLE_UNSOLICITED
where it is configured. Then event polls, integrity polls and link status requests by the clock, and what the internal
indications (IIN) call for: IIN1.7 restart and IIN2.3 overflow an integrity poll, IIN1.4 need time, IIN1.1-3 an event
poll at once.
"""

from __future__ import annotations

import math
from enum import StrEnum

from gatewayd.protocols.dnp3.config import Options
from gatewayd.protocols.dnp3.frames import EVENTS_WAITING, Function, Iin
from gatewayd.protocols.dnp3.memory import Memory

TIME_AGAIN_S = 60.0
"""An outstation that goes on asking for the time gets it this often at most."""
RESTART_GAP = "device restart (IIN1.7): events that it had not sent may be lost"
OVERFLOW_GAP = "event buffer overflow (IIN2.3): the device lost events"


class Job(StrEnum):
    """One thing to do, usually one request."""

    DISABLE = "DISABLE_UNSOLICITED"
    CLEAR_RESTART = "clearing the restart indication"
    INTEGRITY = "the integrity poll"
    ENABLE = "ENABLE_UNSOLICITED"
    TIME = "setting the time"
    EVENTS = "the event poll"
    LINK_STATUS = "REQUEST_LINK_STATUS"


class Agenda:
    """The agenda of one connection. complete: everything has been read once."""

    def __init__(self, options: Options, memory: Memory, now: float) -> None:
        self._options = options
        self._memory = memory
        self._iin = 0
        self._disable = True
        self._enable = options.unsolicited
        self._clear = False
        self._integrity = True
        self._integrity_at = math.inf
        self._events_at = math.inf
        self._time_at = now
        self._asked_at = now
        self.complete = False

    def next(self, now: float, heard: float, *, clock_in_step: bool) -> Job | None:
        """What to do now, None where nothing is due. heard: when the outstation was last heard."""
        if self._disable and Function.DISABLE_UNSOLICITED not in self._memory.ignored:
            return Job.DISABLE
        if self._clear:
            return Job.CLEAR_RESTART
        if self._integrity or now >= self._integrity_at:
            return Job.INTEGRITY
        if self._enable and Function.ENABLE_UNSOLICITED not in self._memory.ignored:
            return Job.ENABLE
        if clock_in_step and self.wants_time and now >= self._time_at:
            return Job.TIME
        if now >= self._events_at:
            return Job.EVENTS
        if now >= self._quiet_until(heard):
            return Job.LINK_STATUS
        return None

    def wait_s(self, now: float, heard: float) -> float:
        """How long nothing is due, where no indication comes."""
        due = [self._integrity_at, self._events_at, self._quiet_until(heard)]
        if self.wants_time:
            due.append(max(self._time_at, now + 1.0))  # the gateway's own clock may get in step meanwhile
        return max(0.0, min(due) - now)

    def _quiet_until(self, heard: float) -> float:
        return max(heard, self._asked_at) + self._options.keepalive_s

    @property
    def wants_time(self) -> bool:
        """The outstation asks for the time, and may get it."""
        return bool(self._iin & Iin.NEED_TIME) and self._options.time_sync != "none" and not self._memory.time_refused

    # ---- what came
    def indications(self, iin: int) -> list[str]:
        """Take the indications of a response. Returns the causes of gaps: what the outstation itself has lost."""
        memory, gaps = self._memory, []
        rising = iin & ~self._iin
        self._iin = iin
        if not iin & Iin.DEVICE_RESTART:
            memory.restart_told = False
            self._clear = False
        elif rising & Iin.DEVICE_RESTART:
            self._clear = self._integrity = True
            if self.complete:  # whatever was told to it about unsolicited responses, it has forgotten
                self._disable, self._enable = not self._options.unsolicited, self._options.unsolicited
            if not memory.restart_told:
                memory.counts["restarts"] += 1
                if memory.contacted:
                    gaps.append(RESTART_GAP)
            memory.restart_told = True
        if not iin & Iin.EVENT_BUFFER_OVERFLOW:
            memory.overflow_told = False
        elif rising & Iin.EVENT_BUFFER_OVERFLOW:
            self._integrity = True
            if not memory.overflow_told:
                memory.counts["overflows"] += 1
                gaps.append(OVERFLOW_GAP)
            memory.overflow_told = True
        memory.contacted = True
        return gaps

    def demand_integrity(self) -> None:
        """Somebody wants everything read again."""
        self._integrity = True

    def begun(self, job: Job, now: float) -> None:
        """A job begins."""
        self._asked_at = now
        if job is Job.INTEGRITY:
            self._integrity = False
            self._integrity_at = now + (self._options.integrity_poll_s or math.inf)
        if job in (Job.INTEGRITY, Job.EVENTS):
            self._events_at = now + (self._options.event_poll_s or math.inf)

    def failed(self, job: Job, now: float) -> None:
        """A job was not answered: it is done again at once (two in a row end the connection)."""
        if job is Job.INTEGRITY:
            self._integrity = True
        elif job is Job.EVENTS:
            self._events_at = now
        elif job is Job.DISABLE:
            self._disable = False  # not everyone answers it; what matters comes next
        elif job is Job.ENABLE:
            self._enable = False
        elif job is Job.TIME:
            self._time_at = now + TIME_AGAIN_S

    def done(self, job: Job, now: float, *, brought_events: bool = False) -> None:
        """A job was answered, whatever the answer. brought_events: more may be waiting."""
        match job:
            case Job.DISABLE:
                self._disable = False
            case Job.ENABLE:
                self._enable = False
            case Job.CLEAR_RESTART:
                self._clear = False
            case Job.TIME:
                self._time_at = now + TIME_AGAIN_S
            case Job.INTEGRITY:
                self.complete = True
            case _:
                pass
        if brought_events and self._options.event_poll_s and self._iin & EVENTS_WAITING:
            self._events_at = now
