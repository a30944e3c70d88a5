"""Carrying out commands: guards, one write, what follows it. Each write goes out once; only a reset may repeat.

A command is a task of its own. Its reply is given as soon as the device has answered; a pulse is ended and a recipe
released afterwards, whatever became of the reply, of the one who asked and of the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple

from gatewayd.control.reasons import Reason
from gatewayd.control.types import Control, Native, Reply, Step, StepKind, Verdict
from gatewayd.protocols.driver import DeviceFault, LinkLost
from gatewayd.protocols.modbus import outcome
from gatewayd.protocols.modbus.address import Address
from gatewayd.protocols.modbus.config import Options
from gatewayd.protocols.modbus.line import Line
from gatewayd.protocols.modbus.memory import Memory, log
from gatewayd.protocols.modbus.pdu import ExceptionAnswer, ModbusError, NotSentError, Request, UnansweredError
from gatewayd.protocols.modbus.program import After, Look, Program, Verify, Write
from gatewayd.protocols.modbus.session import Progress, Session
from gatewayd.protocols.modbus.turns import Urgency

VERIFY_EVERY_S = 0.02
RESET_TRIES = 5
RESET_EVERY_S = 0.5
"""The end of a pulse is written so often at most before it counts as stuck."""
PULSE_STUCK = "pulse-stuck"

Connected = Callable[[], contextlib.AbstractAsyncContextManager[Line]]
"""A line that can be used now: the driver's own, or one opened for the purpose. Raises LinkLost, DeviceFault."""


class _Ended(Exception):
    """The command ends before its operating write. unclear: see _Acted."""

    def __init__(self, reply: Reply, unclear: str = "") -> None:
        self.reply = reply
        self.unclear = unclear
        super().__init__(str(reply))


class _Acted(NamedTuple):
    """after: what must follow; unclear: why the connection cannot be trusted any more, "" where it can."""

    reply: Reply
    after: tuple[After, ...] = ()
    unclear: str = ""


BUG = Reply(Verdict.UNKNOWN, Reason.UNKNOWN, Native(outcome.PROTOCOL, 0, "internal-error"))
"""The reply where this program itself failed."""


class Execution:
    """The commands of one unit."""

    def __init__(self, device: str, options: Options, memory: Memory, connected: Connected) -> None:
        self._device = device
        self._options = options
        self._counts = memory.counts
        self._connected = connected
        self._tasks: set[asyncio.Task[None]] = set()
        self._written: list[Address] = []
        self._hurry = asyncio.Event()

    async def carry_out(self, program: Program, cmd: Control, session: Session) -> Reply:
        """Send a program on a connection that is up, and give the device's answer."""
        if any(mine.overlaps(other) for mine in program.written for other in self._written):
            return Reply(Verdict.REFUSED, Reason.DEVICE_BUSY)
        self._counts["commands"] += 1
        answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        name = f"{self._device} command {cmd.id}"
        task = asyncio.create_task(self._all(program, cmd, session, answered), name=name)
        self._tasks.add(task)
        self._written += program.written
        task.add_done_callback(lambda done: self._finished(done, program))
        return await asyncio.shield(answered)

    def _finished(self, task: asyncio.Task[None], program: Program) -> None:
        self._tasks.discard(task)
        for address in program.written:
            self._written.remove(address)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("command failed", device=self._device, exc_info=error)

    async def finish(self, within_s: float) -> None:
        """Wait for what is under way; past the time pulses end early."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        self._hurry.set()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._hurry.clear()

    # ---- one command

    async def _all(self, program: Program, cmd: Control, session: Session, answered: asyncio.Future[Reply]) -> None:
        acted = _Acted(BUG)
        try:
            async with session.line.turn(Urgency.COMMAND):
                acted = _Acted(outcome.OFFLINE) if session.lost else await self._act(program, cmd, session.line)
                if acted.unclear:
                    self._counts["unclear_commands"] += 1
                    session.give_up(f"a write without a clear answer: {acted.unclear}")
        finally:
            answered.set_result(acted.reply)
        for after in acted.after:
            await self._follow(after, cmd, session.progress)

    async def _act(self, program: Program, cmd: Control, line: Line) -> _Acted:
        """Everything up to the operating write and its read-back, with the line to ourselves."""
        releases = tuple(after for after in program.after if not after.repeats)
        writes = line.writes
        try:
            for look in program.guards:
                await self._guard(line, look)
            for step in program.before:
                if isinstance(step, Verify):
                    await self._verify(line, step)
                else:
                    await self._select(line, step, cmd.not_after_ns)
        except _Ended as ended:
            return _Acted(ended.reply, releases if line.writes > writes else (), ended.unclear)
        except ModbusError as error:
            return _Acted(outcome.before_write(error), releases if line.writes > writes else ())
        try:
            await self._ask(line, program.operate.request, cmd.not_after_ns)
        except ModbusError as error:
            reply = outcome.written(error)
            selected = releases if program.before else ()
            after = selected if reply.verdict is Verdict.REFUSED else program.after
            return _Acted(reply, after, str(error) if isinstance(error, UnansweredError) else "")
        return _Acted(await self._read_back(line, program.operate) or outcome.DONE, program.after)

    async def _ask(self, line: Line, request: Request, not_after_ns: int | None = None) -> bytes:
        options = self._options
        return await line.ask(
            options.unit,
            request,
            timeout_s=options.timeout_s,
            pause_s=options.pause_ms / 1000,
            not_after_ns=not_after_ns,
        )

    async def _guard(self, line: Line, look: Look) -> None:
        data = await self._ask(line, look.request)
        if not look.holds(data):
            raise _Ended(outcome.refused(Reason.INTERLOCKED, f"guard {look.missed(data)}"))

    async def _select(self, line: Line, step: Write, not_after_ns: int) -> None:
        try:
            await self._ask(line, step.request, not_after_ns)
        except ExceptionAnswer as error:
            if error.code != outcome.ACKNOWLEDGE:
                raise
        except UnansweredError as error:
            raise _Ended(outcome.before_write(error), str(error)) from None
        if failed := await self._read_back(line, step):
            raise _Ended(Reply(Verdict.REFUSED, Reason.DEVICE_REJECTED, failed.native))

    async def _verify(self, line: Line, step: Verify) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + step.within_s
        while not step.look.holds(data := await self._ask(line, step.look.request)):
            if loop.time() >= until:
                raise _Ended(outcome.refused(Reason.DEVICE_REJECTED, f"verify {step.look.missed(data)}"))
            await asyncio.sleep(VERIFY_EVERY_S)

    async def _read_back(self, line: Line, write: Write) -> Reply | None:
        """None where the device holds what was written, or is not to be asked."""
        if write.readback is None:
            return None
        try:
            data = await self._ask(line, write.readback)
        except ModbusError as error:
            return Reply(Verdict.UNKNOWN, Reason.UNKNOWN, outcome.native(error)._replace(name="not-read-back"))
        if write.confirmed(data):
            return None
        return Reply(Verdict.UNKNOWN, Reason.UNKNOWN, Native(outcome.PROTOCOL, 0, "readback-differs"))

    # ---- what follows

    async def _follow(self, after: After, cmd: Control, progress: Progress) -> None:
        """The end of a pulse, until it is confirmed or given up; a release, once."""
        await self._pause(after.delay_s)
        tries = RESET_TRIES if after.repeats else 1
        self._counts["pulses"] += after.repeats
        trouble: Exception | None = None
        for again in range(tries):
            if again:
                await asyncio.sleep(RESET_EVERY_S)
            try:
                async with self._connected() as line, line.turn(Urgency.COMMAND):
                    await self._ask(line, after.write.request)
                    if failed := await self._read_back(line, after.write):
                        raise NotSentError(str(failed.native))
                return
            except (ModbusError, LinkLost, DeviceFault) as error:
                trouble = error
        code = trouble.code if isinstance(trouble, ExceptionAnswer) else 0
        where = {"device": self._device, "output": str(after.write.address), "command": cmd.id, "cause": str(trouble)}
        if not after.repeats:
            self._counts["releases_failed"] += 1
            log.error("a recipe was not released", **where)
            return
        self._counts["pulses_stuck"] += 1
        log.error(PULSE_STUCK, **where)
        stuck = Native(outcome.PROTOCOL, code, PULSE_STUCK)
        progress(cmd.id, Step(StepKind.TERMINATED_NEGATIVE, Reason.UNKNOWN, stuck))

    async def _pause(self, seconds: float) -> None:
        """A pulse lasts so long; at shutdown it is cut short rather than left on."""
        if seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._hurry.wait()
