"""One opendnp3 master: requests that can be awaited, fragments that wait for the disk, indications in order.

Callbacks come on opendnp3's threads, one after the other for a line. They hand things to the loop and nothing else; no
exception leaves them (from a command's callback it would end the process). At most one request is under way at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import opendnp3 as dnp3

from gatewayd import clock
from gatewayd.protocols.dnp3 import library
from gatewayd.protocols.dnp3.command import Crob, Outgoing
from gatewayd.protocols.dnp3.config import Options
from gatewayd.protocols.dnp3.frames import EVENTS_WAITING, Function
from gatewayd.protocols.dnp3.line import Line
from gatewayd.protocols.dnp3.memory import Memory
from gatewayd.protocols.dnp3.points import PointTable
from gatewayd.protocols.dnp3.route import Route
from gatewayd.protocols.dnp3.soe import Fragment, Soe
from gatewayd.protocols.dnp3.status import Ended, Point, Task

ObjectHeader = tuple[int, int] | bytes
"""Group and variation, of which all objects are meant, or the octets of a header with its data."""


class Indications(NamedTuple):
    """Internal indications of a response, where they differ from the last ones."""

    iin: int


class Closed(NamedTuple):
    """The master's connection is gone; nothing comes after this."""


class Broke(NamedTuple):
    """A callback failed, a bug of ours; nothing that comes after it can be relied on."""

    error: BaseException


class Finished(NamedTuple):
    """The request under way has ended; everything it brought came before this."""

    ended: Ended


Item = Fragment | Indications | Finished | Closed | Broke


class Master:
    """The master of one outstation on an open line.

    inbox: what came, in order; each Fragment in it must be let go of
    """

    def __init__(
        self, name: str, options: Options, points: PointTable, line: Line, route: Route, memory: Memory
    ) -> None:
        self._name = name
        self._options = options
        self._line = line
        self._memory = memory
        self._loop = asyncio.get_running_loop()
        self.inbox: asyncio.Queue[Item] = asyncio.Queue()
        self._waiting: set[Fragment] = set()
        self._stopped = False
        self._route = route
        self.soe = Soe(name, points, route, memory, self._deliver)
        self._application = _Application(self, memory)
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._request: asyncio.Future[Ended] | None = None
        self._native: Any = None

    async def start(self) -> None:
        """Make it and wait until it may ask. Raises LinkLost, DeviceFault."""
        library.before_end(self._let_go)
        self._native = await self._line.add_master(self._name, self.soe, self._application, self._options)
        await self._opened

    async def stop(self) -> bool:
        """Let go of what waits, then shut down; the gate has been closed. False where that did not end in time."""
        self._let_go()
        native, self._native = self._native, None
        ended = native is None or await self._line.remove_master(native)
        self.resolve(Ended(Task.LOST))
        library.forget(self._let_go)
        return ended

    def _let_go(self) -> None:
        self._route.gate.close()
        self._stopped = True
        for fragment in list(self._waiting):
            fragment.let_go()

    # ---- requests, on the loop; the caller has the line's turn
    async def read(self, headers: Sequence[ObjectHeader]) -> Ended:
        """READ."""
        return await self._ask(lambda native: native.Scan(_headers(headers), self.soe))

    async def perform(self, function: Function, headers: Sequence[ObjectHeader] = ()) -> Ended:
        """Any other function whose answer carries nothing but indications."""
        code = dnp3.FunctionCode(int(function))
        return await self._ask(lambda native: native.PerformFunction(function.name, code, _headers(headers)))

    async def command(self, outgoing: Outgoing, *, sbo: bool) -> Ended:
        """SELECT and OPERATE back to back, or DIRECT_OPERATE. The gate has been armed."""
        command = _command(outgoing)

        def start(native: Any) -> None:
            self._application.commanding = True
            ask = native.SelectAndOperate if sbo else native.DirectOperate
            ask(command, outgoing.index, self._application.on_command)

        return await self._ask(start)

    async def link_status(self) -> Ended:
        """REQUEST_LINK_STATUS of the data link layer."""
        return await self._ask(lambda native: native.CheckLinkStatus(self._application.on_link_status))

    async def _ask(self, start: Callable[[Any], None]) -> Ended:
        assert self._request is None, "one request at a time"
        if self._native is None:
            return Ended(Task.NO_COMMS)
        self._memory.counts["requests"] += 1
        self._request = request = self._loop.create_future()
        start(self._native)
        return await asyncio.shield(request)

    # ---- from the callbacks, in order
    def soon(self, function: Callable[..., None], *arguments: object) -> None:
        """Call on the loop. Where the loop is closed nobody is left, and nothing may go out any more."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            self._let_go()

    def _deliver(self, fragment: Fragment) -> int:
        self._waiting.add(fragment)
        self.soon(self.inbox.put_nowait, fragment)
        if self._stopped:  # looked at after adding: either this or `_let_go` sees it
            fragment.let_go()
        return len(self._waiting)

    def taken(self, fragment: Fragment) -> None:
        """The core has it: its callback returns, where it waits, and opendnp3 confirms it."""
        self._waiting.discard(fragment)
        fragment.let_go()

    def opened(self) -> None:
        """It may ask now."""
        if not self._opened.done():
            self._opened.set_result(None)

    def closed(self) -> None:
        """opendnp3's channel is closed."""
        self.inbox.put_nowait(Closed())

    def indicated(self, iin: int) -> None:
        """Indications that differ from the last ones."""
        self.inbox.put_nowait(Indications(iin))

    def broke(self, error: BaseException) -> None:
        """A callback failed."""
        self._memory.counts["callback_errors"] += 1
        self.inbox.put_nowait(Broke(error))

    def finished(self, ended: Ended) -> None:
        """The request has ended."""
        self.inbox.put_nowait(Finished(ended))

    def resolve(self, ended: Ended) -> None:
        """Tell whoever asked; called for each Finished of the inbox, when all before it has been taken."""
        request, self._request = self._request, None
        if request is not None and not request.done():
            request.set_result(ended)


class _Application(dnp3.IMasterApplication):  # type: ignore[misc]
    """opendnp3's callbacks about tasks and indications. The end of a task is told together with its indications.

    commanding: the task under way is a command, whose end comes by `on_command`
    """

    def __init__(self, master: Master, memory: Memory) -> None:
        super().__init__()
        self._master = master
        self._memory = memory
        self._ended: Ended | None = None
        self._iin: int | None = None
        self.commanding = False

    def AssignClassDuringStartup(self) -> bool:  # noqa: N802
        """Never."""
        return False

    def Now(self) -> Any:  # noqa: N802
        """Asked by opendnp3's own time tasks, of which there are none here."""
        return dnp3.UTCTimestamp(clock.now_ns() // 1_000_000)

    def OnOpen(self) -> None:  # noqa: N802
        """The channel is connected: the first callback on the line's thread."""
        library.keep_thread_state()
        self._master.soon(self._master.opened)

    def OnClose(self) -> None:  # noqa: N802
        """The channel is closed."""
        self._master.soon(self._master.closed)

    def OnTaskComplete(self, info: Any) -> None:  # noqa: N802
        """A task ended, before CONFIRM is sent for what it brought; if it was answered OnReceiveIIN follows."""
        try:
            result = int(info.result)
            self._master.soe.rest(rejected=result == Task.BAD_RESPONSE)
            if not self.commanding:
                self._end(Ended(result))
        except BaseException as error:
            self._master.soon(self._master.broke, error)

    def OnReceiveIIN(self, field: Any) -> None:  # noqa: N802
        """After every response, also unsolicited ones."""
        try:
            iin = field.LSB | field.MSB << 8
            master = self._master
            master.soe.known_iin = iin
            master.soe.rest(rejected=False)
            if not iin & EVENTS_WAITING:
                self._memory.calm_ns = clock.now_ns()
            if iin != self._iin:
                self._iin = iin
                master.soon(master.indicated, iin)
            ended, self._ended = self._ended, None
            if ended is not None:
                master.soon(master.finished, ended._replace(iin=iin))
        except BaseException as error:
            self._master.soon(self._master.broke, error)

    def on_command(self, result: Any) -> None:
        """A command ended."""
        try:
            self.commanding = False
            points = tuple(Point(int(point.state), int(point.status)) for point in result.to_list())
            self._end(Ended(int(result.summary), points))
        except BaseException as error:
            self._master.soon(self._master.broke, error)

    def on_link_status(self, answered: bool) -> None:
        """A link status request ended."""
        try:
            self._master.soon(self._master.finished, Ended(Task.SUCCESS if answered else Task.RESPONSE_TIMEOUT))
        except BaseException as error:
            self._master.soon(self._master.broke, error)

    def _end(self, ended: Ended) -> None:
        if ended.task in (Task.SUCCESS, Task.BAD_RESPONSE):
            self._ended = ended  # answered: the indications come next
        else:
            self._master.soon(self._master.finished, ended)


def _headers(headers: Sequence[ObjectHeader]) -> list[Any]:
    return [dnp3.Header.Raw(one) if isinstance(one, bytes) else dnp3.Header.AllObjects(*one) for one in headers]


_ANALOG = {
    "i16": lambda value: dnp3.AnalogOutputInt16(int(value)),
    "i32": lambda value: dnp3.AnalogOutputInt32(int(value)),
    "f32": dnp3.AnalogOutputFloat32,
    "f64": dnp3.AnalogOutputDouble64,
}


def _command(outgoing: Outgoing) -> Any:
    if not isinstance(outgoing, Crob):
        return _ANALOG[outgoing.form](outgoing.value)
    operation, trip_close = dnp3.OperationType(outgoing.code & 0x0F), dnp3.TripCloseCode(outgoing.code >> 6)
    clear = bool(outgoing.code & 0x20)
    return dnp3.ControlRelayOutputBlock(operation, trip_close, clear, 1, outgoing.on_ms, outgoing.off_ms)
