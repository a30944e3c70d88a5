"""One outstation on a line: by which addresses its frames are known, its gate, and what was last heard of it. Pure."""

from __future__ import annotations

from gatewayd.clock import Moment
from gatewayd.protocols.dnp3.config import Options
from gatewayd.protocols.dnp3.frames import UNSOLICITED, Frame, Function, apdu
from gatewayd.protocols.dnp3.gate import Gate


class Route:
    """Between the gateway (local) and an outstation (remote).

    iin:      internal indications of its latest response, known before opendnp3 has the fragment
    heard:    CLOCK_MONOTONIC ns of its latest frame; 0 before the first
    answer:   first objects of its latest solicited response, and when that came
    sent:     when the latest request of each function went out
    """

    def __init__(self, name: str, options: Options) -> None:
        self.name = name
        self.local = options.local_address
        self.remote = options.remote_address
        self.gate = Gate(unsolicited=options.unsolicited)
        self.iin = 0
        self.heard = 0
        self.answer = b""
        self.answered = Moment(0, 0)
        self.sent: dict[int, Moment] = {}

    def hear(self, frame: Frame, at: Moment) -> None:
        """A frame of the outstation came in."""
        self.heard = at.mono_ns
        fragment = apdu(frame)
        if fragment is None or fragment.function not in (Function.RESPONSE, Function.UNSOLICITED_RESPONSE):
            return
        self.iin = fragment.iin
        if not fragment.control & UNSOLICITED:
            self.answer, self.answered = fragment.objects, at

    def passes(self, frame: Frame, at: Moment) -> bool:
        """Whether a frame may go out to the outstation; notes when requests went."""
        if not self.gate.passes(frame, at.mono_ns):
            return False
        fragment = apdu(frame)
        if fragment is not None:
            self.sent[fragment.function] = at
        return True
