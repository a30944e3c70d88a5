"""The gate on the wire: what may go out to one outstation now, judged frame by frame, whatever opendnp3 wants. Pure.

* A command passes only while it is armed, each of its function codes once and in order, not after its time. So nothing
  is ever operated twice, late, or by anything but a command of an operator.
* Nothing at all passes once the gate is closed. It is closed before a fragment that is not on disk is let go of, so no
  CONFIRM for it can leave.
* Besides that only reads and the protocol's own housekeeping pass: CONFIRM, clearing the restart indication, setting
  the time, unsolicited on (where it is configured) and off.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from gatewayd.protocols.dnp3.frames import FIRST, Apdu, Frame, Function, apdu

_ALWAYS = {
    Function.CONFIRM,
    Function.READ,
    Function.DISABLE_UNSOLICITED,
    Function.DELAY_MEASURE,
    Function.RECORD_CURRENT_TIME,
}
_CLEAR_RESTART = bytes((80, 1, 0, 7, 7, 0))
_SET_TIME = (bytes((50, 1, 7, 1)), bytes((50, 3, 7, 1)))


class Stop(StrEnum):
    """Why a frame did not pass."""

    CLOSED = "closed"
    NOT_ALLOWED = "not-allowed"
    NOT_ARMED = "not-armed"
    EXPIRED = "expired"


class Armed:
    """One command that may pass. left: function codes that may still go, in order; sent: those that went."""

    def __init__(self, functions: Sequence[int], not_after_ns: int) -> None:
        self.left = list(functions)
        self.sent: list[int] = []
        self.not_after_ns = not_after_ns
        self.expired = False

    @property
    def acted(self) -> bool:
        """An OPERATE or DIRECT_OPERATE is on its way: something may have moved."""
        return Function.OPERATE in self.sent or Function.DIRECT_OPERATE in self.sent


class Gate:
    """The gate of one outstation. stopped: frames that did not pass, by reason."""

    def __init__(self, *, unsolicited: bool) -> None:
        """unsolicited: ENABLE_UNSOLICITED may pass."""
        self._allowed = _ALWAYS | ({Function.ENABLE_UNSOLICITED} if unsolicited else set())
        self._armed: Armed | None = None
        self._passing = False
        self.closed = False
        self.stopped = dict.fromkeys(Stop, 0)

    def close(self) -> None:
        """Let nothing pass any more. May be called from any thread."""
        self.closed = True

    def arm(self, functions: Sequence[int], not_after_ns: int) -> Armed:
        """Let a command pass, once. not_after_ns: CLOCK_MONOTONIC."""
        self._armed = Armed(functions, not_after_ns)
        return self._armed

    def disarm(self) -> None:
        """The command has its answer: nothing of it passes any more."""
        self._armed = None

    def passes(self, frame: Frame, now_ns: int) -> bool:
        """Whether a frame may go out; what follows a first segment shares its fate. now_ns: CLOCK_MONOTONIC."""
        if self.closed:
            self.stopped[Stop.CLOSED] += 1
            return False
        if not frame.user_data:
            return True  # link status, acknowledgements
        fragment = apdu(frame)
        if fragment is not None:
            stop = self._judge(fragment, now_ns)
            self._passing = stop is None
            if stop is not None:
                self.stopped[stop] += 1
        elif not frame.head or frame.head[0] & FIRST:
            self._passing = False  # not to be understood: not to be sent
            self.stopped[Stop.NOT_ALLOWED] += 1
        return self._passing

    def _judge(self, fragment: Apdu, now_ns: int) -> Stop | None:
        function = fragment.function
        if function in self._allowed:
            return None
        if function == Function.WRITE:
            housekeeping = fragment.objects == _CLEAR_RESTART or fragment.objects[:4] in _SET_TIME
            return None if housekeeping else Stop.NOT_ALLOWED
        if function not in (Function.SELECT, Function.OPERATE, Function.DIRECT_OPERATE):
            return Stop.NOT_ALLOWED
        armed = self._armed
        if armed is None or not armed.left or armed.left[0] != function:
            return Stop.NOT_ARMED
        if now_ns > armed.not_after_ns:
            armed.expired = True
            armed.left.clear()
            return Stop.EXPIRED
        armed.sent.append(armed.left.pop(0))
        return None
