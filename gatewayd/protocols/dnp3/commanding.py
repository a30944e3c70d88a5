"""Commands of one connection: checked, armed at the gate, sent once, answered once."""

from __future__ import annotations

import asyncio

from gatewayd import clock
from gatewayd.control.reasons import Reason
from gatewayd.control.types import Control, Reply, Verdict
from gatewayd.protocols.dnp3.command import Outgoing, UnsendableError
from gatewayd.protocols.dnp3.config import Options
from gatewayd.protocols.dnp3.frames import Function
from gatewayd.protocols.dnp3.gate import Armed
from gatewayd.protocols.dnp3.library import START_LIMIT_MS
from gatewayd.protocols.dnp3.line import Line
from gatewayd.protocols.dnp3.master import Master
from gatewayd.protocols.dnp3.memory import Memory, log
from gatewayd.protocols.dnp3.points import PointTable
from gatewayd.protocols.dnp3.route import Route
from gatewayd.protocols.dnp3.status import Ended, reply

OFFLINE = Reply(Verdict.REFUSED, Reason.DEVICE_OFFLINE)
BUSY = Reply(Verdict.REFUSED, Reason.DEVICE_BUSY)
EXPIRED = Reply(Verdict.REFUSED, Reason.EXPIRED)
UNSURE = Reply(Verdict.UNKNOWN, Reason.UNKNOWN)
START_LIMIT_S = START_LIMIT_MS / 1000
LAST_WORD_S = 2.0
"""opendnp3 ends a command by itself; if it does not, nobody waits longer than this beyond its own limits."""


class Commanding:
    """See the module. ready: commands are taken."""

    def __init__(
        self,
        name: str,
        options: Options,
        points: PointTable,
        memory: Memory,
        line: Line,
        route: Route,
        master: Master,
    ) -> None:
        self._name = name
        self._limit_s = START_LIMIT_S + 2 * options.response_timeout_s + LAST_WORD_S
        self._points = points
        self._memory = memory
        self._line = line
        self._route = route
        self._master = master
        self._running: set[asyncio.Task[None]] = set()
        self.ready = False

    async def operate(self, cmd: Control) -> Reply:
        """One command, once. What was begun goes on where the caller is cancelled."""
        if not self.ready:
            return OFFLINE
        command = self._points.commands.get(cmd.point)
        if command is None:
            return Reply(Verdict.REFUSED, Reason.UNKNOWN_POINT)
        if cmd.test:  # DNP3 has no test bit: it would operate in earnest
            return Reply(Verdict.REFUSED, Reason.UNSUPPORTED)
        try:
            outgoing = command.outgoing(cmd.value)
        except UnsendableError as error:
            log.info("a command was not sent", device=self._name, command=cmd.id, cause=str(error))
            return Reply(Verdict.REFUSED, error.reason)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        task = asyncio.get_running_loop().create_task(self._carry_out(cmd, outgoing, answer), name=f"command {cmd.id}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(answer)

    async def end(self) -> None:
        """The connection is over; returns when every command has its answer."""
        if self._running:
            await asyncio.wait(self._running, timeout=LAST_WORD_S)

    async def _carry_out(self, cmd: Control, outgoing: Outgoing, answer: asyncio.Future[Reply]) -> None:
        armed: Armed | None = None
        try:
            async with asyncio.timeout(START_LIMIT_S):
                await self._line.turn.take(urgent=True)
        except TimeoutError:
            answer.set_result(BUSY)
            return
        try:
            # no await between this check and the native call; the gate checks once more when it comes to the wire
            if not self.ready:
                answer.set_result(OFFLINE)
                return
            if clock.mono_ns() > cmd.not_after_ns:
                answer.set_result(EXPIRED)
                return
            self._memory.counts["commands"] += 1
            functions = (Function.SELECT, Function.OPERATE) if cmd.sbo else (Function.DIRECT_OPERATE,)
            armed = self._route.gate.arm(functions, cmd.not_after_ns)
            request = asyncio.ensure_future(self._master.command(outgoing, sbo=cmd.sbo))
            await asyncio.wait({request}, timeout=self._limit_s)
            self._route.gate.disarm()
            answer.set_result(_reply(request.result() if request.done() else None, armed))
            await request  # the line stays ours until opendnp3 is through with it
        finally:
            self._route.gate.disarm()
            self._line.turn.give()
            if not answer.done():
                answer.set_result(UNSURE if armed is not None else OFFLINE)


def _reply(ended: Ended | None, armed: Armed) -> Reply:
    if armed.expired and not armed.acted:
        return EXPIRED
    if ended is None:
        return UNSURE if armed.acted else BUSY
    return reply(ended, acted=armed.acted)
