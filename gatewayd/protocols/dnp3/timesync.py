"""Giving an outstation the time: the LAN procedure, or the one with a measured delay for serial lines.

LAN: RECORD_CURRENT_TIME, then the time at which that went out is written (g50v3). Non-LAN: DELAY_MEASURE, then the time
plus half of what remains of the round trip without the outstation's own delay (g50v1). Both times are taken on the
wire, where the requests pass the gate. Source: IEEE 1815, time synchronisation procedures.
"""

from __future__ import annotations

import structlog

from gatewayd import clock
from gatewayd.protocols.dnp3.config import Options
from gatewayd.protocols.dnp3.frames import REQUEST_ERROR, Function
from gatewayd.protocols.dnp3.master import Master
from gatewayd.protocols.dnp3.memory import Memory
from gatewayd.protocols.dnp3.route import Route
from gatewayd.protocols.dnp3.status import Ended, Task

log = structlog.get_logger("dnp3")

_UNIT_MS = {bytes((52, 1, 7, 1)): 1000, bytes((52, 2, 7, 1)): 1}
"""Milliseconds of the number in g52v1 (coarse) and g52v2 (fine)."""
_ABSOLUTE, _RECORDED = bytes((50, 1, 7, 1)), bytes((50, 3, 7, 1))


async def set_time(name: str, options: Options, memory: Memory, route: Route, master: Master) -> Ended:
    """Give the time; the caller has the line's turn and has seen that the gateway's own clock is in step."""
    if options.time_sync == "lan":
        ended = await master.perform(Function.RECORD_CURRENT_TIME)
        if ended.task == Task.SUCCESS and not ended.iin & REQUEST_ERROR:
            ms = route.sent[Function.RECORD_CURRENT_TIME].utc_ns // 1_000_000
            ended = await master.perform(Function.WRITE, [_RECORDED + ms.to_bytes(6, "little")])
    else:
        ended = await master.perform(Function.DELAY_MEASURE)  # its answer has an object, which opendnp3 complains of
        turnaround_ms = _turnaround_ms(route.answer)
        if ended.task == Task.BAD_RESPONSE and turnaround_ms is not None:
            trip_ms = (route.answered.mono_ns - route.sent[Function.DELAY_MEASURE].mono_ns) / 1e6
            ms = clock.now_ns() // 1_000_000 + round(max(0.0, trip_ms - turnaround_ms) / 2)
            ended = await master.perform(Function.WRITE, [_ABSOLUTE + ms.to_bytes(6, "little")])
    if ended.task in (Task.SUCCESS, Task.BAD_RESPONSE):
        if ended.task == Task.SUCCESS and not ended.iin & REQUEST_ERROR:
            memory.counts["time_syncs"] += 1
        else:
            memory.time_refused = True
            log.warning("the device does not take the time", device=name, procedure=options.time_sync)
    return ended


def _turnaround_ms(objects: bytes) -> int | None:
    """The outstation's own delay out of the answer to DELAY_MEASURE, None where it is none."""
    unit = _UNIT_MS.get(objects[:4])
    return None if unit is None or len(objects) < 6 else int.from_bytes(objects[4:6], "little") * unit
