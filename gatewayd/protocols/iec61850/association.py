"""The life of one association, on the thread that owns it: set up, then reports, reads and commands until it ends.

To the event loop go whole batches, in order, over one bounded queue; while it is full the thread neither reads nor
ticks, so that TCP holds the IED back and its own buffer fills.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog

from gatewayd import clock
from gatewayd.control.types import Reply, Step, Verdict
from gatewayd.points.types import Batch, Cursor, Sample
from gatewayd.protocols.device import Device
from gatewayd.protocols.iec61850 import mapping, reports, values
from gatewayd.protocols.iec61850.address import parse_block
from gatewayd.protocols.iec61850.blocks import Block, Mark, NoBlockError, Taker
from gatewayd.protocols.iec61850.config import Options
from gatewayd.protocols.iec61850.connection import Connection, ConnectionLost, RequestFailed, Stopped
from gatewayd.protocols.iec61850.exchange import (
    OFFLINE,
    UNSURE,
    Ask,
    Complete,
    Deliver,
    Ended,
    Exchange,
    Gap,
    Memory,
    Verb,
)
from gatewayd.protocols.iec61850.mapping import Place, Poll
from gatewayd.protocols.iec61850.polling import Poller
from gatewayd.protocols.iec61850.transactions import Transactions

log = structlog.get_logger("iec61850")

QUIET_S = 0.5
"""A resumed buffer counts as emptied when nothing came for so long."""
LONGEST_BACKLOG_S = 120.0
READ_AGAIN = 5
"""How often a data set is read again because a report came meanwhile."""
TAKE_AGAIN_S = 60.0
"""How often a control block that was not free is tried again."""


class Association:
    """One association with an IED. Made on the loop; `run` is the thread's.

    address: numeric, and the port: of the IED, or of the loopback where a TLS session is between
    """

    def __init__(
        self,
        device: Device,
        options: Options,
        address: tuple[str, int],
        cursors: Mapping[str, Cursor],
        exchange: Exchange,
        memory: Memory,
        progress: Callable[[str, Step], None],
    ) -> None:
        self._device = device
        self._options = options
        self._address = address
        self._cursors = cursors
        self._memory = memory
        self._progress = progress
        self._exchange = exchange
        self._events_of = {point.row: point.event for point in device.points}
        self._blocks: dict[str, Block] = {}
        self._places: list[Place] = []
        self._polls: list[Poll] = []
        self._layouts: dict[tuple[str, str], values.Node | None] = {}
        self._untaken: list[str] = []
        self._complete = False
        self._commanding = False
        self._new_revision = ""
        self._overflowed: list[Block] = []
        self._connection = Connection(
            timeout_s=options.timeout_s,
            stopping=lambda: exchange.stopping,
            resting=self._rest_in_request,
            on_report=self._on_report,
            on_control=self._heard,
            counts=memory.counts,
        )
        self._poller = Poller(self._connection, memory, self._answer_asked)
        self._transactions = Transactions(
            self._connection,
            originator=options.originator,
            constant_t=options.constant_t,
            progress=self._told,
            shows=memory.shows_selects,
        )
        self._taker: Taker | None = None

    def run(self) -> None:
        """Associate and serve until the end, which is told as `Ended`; never raises."""
        ended = Ended("stopped")
        try:
            self._set_up()
            self._serve()
        except Stopped:
            pass
        except ConnectionLost as error:
            ended = Ended(str(error))
        except RequestFailed as error:
            ended = Ended(f"setting up: {error}")
        except Exception as error:
            ended = Ended(f"{type(error).__name__}: {error}", error)
        finally:
            self._connection.close()
            self._exchange.close(ended)

    # setting up
    def _set_up(self) -> None:
        options = self._options
        self._connection.open(
            self._address,
            f"{self._device.host} port {self._device.port}",
            within_s=options.connect_timeout_s,
            ap_title=options.ap_title,
            ae_qualifier=options.ae_qualifier,
        )
        self._memory.counts["associations"] += 1
        self._locate()
        self._learn_controls()
        self._taker = Taker(
            self._connection,
            self._places,
            reserve_s=options.reserve_s,
            integrity_s=options.integrity_s,
            waited=self._memory.waited,
        )
        for name in options.reports:
            self._take(name)
        self._plan_polls()
        self._poll()
        self._finish_backlogs()
        self._await_interrogations()
        self._complete = True
        self._exchange.put(Complete())

    def _plan_polls(self) -> None:
        reported = {row for block in self._blocks.values() for row in block.map.rows}
        self._polls = mapping.polls(place for place in self._places if place.row not in reported)
        self._memory.counts["polled_points"] = sum(len(poll.extracts) for poll in self._polls)

    def _locate(self) -> None:
        now = clock.moment()
        lost = []
        for point in self._device.points:
            if not point.address:
                continue
            try:
                self._places.append(mapping.locate(point, self._layout_of))
            except mapping.NotThereError as error:
                lost.append(mapping.missing(point.row, now.utc_ns))
                self._memory.say_once(f"point {point.row}", "point not on the IED", point=point.name, cause=str(error))
        self._memory.counts["unknown_points"] = len(lost)
        self._deliver(lost, now)

    def _layout_of(self, domain: str, item: str) -> values.Node | None:
        if (domain, item) not in self._layouts:
            self._layouts[domain, item] = self._connection.layout(domain, item)
        return self._layouts[domain, item]

    def _learn_controls(self) -> None:
        self._transactions.learn(self._device.points)
        for point, trouble in self._transactions.troubles():
            self._memory.say_once(f"control {point}", "point cannot be commanded", point=point, cause=trouble)

    def _take(self, text: str) -> None:
        name = parse_block(text)
        assert self._taker is not None
        cursor = self._cursors.get(str(name)) if name.buffered else None
        try:
            block = self._taker.take(name, Mark.of(cursor))
            self._blocks[block.rpt_id] = block
            if block.gap is not None:
                self._gap(block.gap)
            self._taker.enable(block)
        except NoBlockError as error:
            self._blocks = {key: block for key, block in self._blocks.items() if block.name != name}
            told = f"block {text}" in self._memory.said
            self._memory.say_once(f"block {text}", "report control block not used, points are polled", cause=str(error))
            if Mark.of(cursor) is not None and not told:
                self._gap(str(error))
            self._untaken.append(text)
            return
        self._memory.said.discard(f"block {text}")
        self._memory.counts["unknown_members"] += block.map.unknown
        self._memory.counts["resumed"] += block.resumed
        if block.backlog:
            block.last_report = time.monotonic()
        elif not self._taker.interrogate(block):
            self._read_data_set(block)

    def _take_again(self) -> None:
        """Control blocks that were not free before."""
        untaken, self._untaken = self._untaken, []
        for name in untaken:
            self._take(name)
        self._finish_backlogs()
        self._plan_polls()

    def _finish_backlogs(self) -> None:
        """Let a buffer empty itself, then read the data set: a static value must not come before older ones."""
        began = time.monotonic()
        deadline = began + LONGEST_BACKLOG_S
        waiting = [block for block in self._blocks.values() if block.backlog and not block.interrogated]
        while any(time.monotonic() - block.last_report < QUIET_S for block in waiting):
            self._step()
            now = time.monotonic()
            if self._exchange.held_back:  # not quiet: not listened to
                deadline += now - began
                for block in waiting:
                    block.last_report = now
            elif now > deadline:
                break
            began = now
        for block in waiting:
            self._read_data_set(block)

    def _await_interrogations(self) -> None:
        deadline = time.monotonic() + 2 * self._options.timeout_s
        while missing := [block for block in self._blocks.values() if not block.interrogated]:
            self._step()
            if self._exchange.held_back:
                deadline = time.monotonic() + 2 * self._options.timeout_s
            elif time.monotonic() > deadline:
                for block in missing:
                    log.warning("no report after the general interrogation, data set read", block=str(block.name))
                    self._read_data_set(block)

    def _read_data_set(self, block: Block) -> None:
        domain, _, item = block.data_set.partition("/")
        now = clock.moment()
        block.interrogated = True
        read: list[Sample] = []
        for _ in range(READ_AGAIN):
            heard = block.last_report
            try:
                read = (
                    self._connection.read_data_set(domain, item, lambda value: block.assembler.read(value, now.utc_ns))
                    or []
                )
            except RequestFailed:  # too long for one answer, or refused: each object by itself
                places = [place for place in self._places if place.row in block.map.rows]
                read = self._poller.read(mapping.polls(places))
            self._memory.counts["reads"] += 1
            if block.last_report == heard:
                break  # else a report overtook the answer, which may hold what is older
        self._deliver(read, now)

    # serving
    def _serve(self) -> None:
        next_poll = time.monotonic() + self._options.poll_s
        next_take = time.monotonic() + TAKE_AGAIN_S
        while True:
            self._step()
            now = time.monotonic()
            if self._exchange.held_back:
                continue
            if self._polls and now >= next_poll:
                next_poll = max(next_poll + self._options.poll_s, now)
                self._poll()
            elif self._untaken and now >= next_take:
                next_take = now + TAKE_AGAIN_S
                self._take_again()
            elif now - self._connection.last_heard >= self._options.keepalive_s:
                self._keep_alive()

    def _step(self) -> None:
        """One tick, or a wait for the disk, and then what was asked for."""
        if self._rest():
            if self._exchange.stopping:
                raise Stopped
        else:
            self._connection.tick()
            self._memory.counts["selects_dropped"] += self._transactions.look()
            while self._overflowed:
                assert self._taker is not None
                self._taker.interrogate(self._overflowed.pop())
        if self._new_revision:
            raise ConnectionLost(self._new_revision)
        self._answer_asked()

    def _rest(self) -> bool:
        """Whether the disk is behind; then a moment has passed."""
        if not self._exchange.held_back:
            return False
        self._memory.counts["waited_for_disk"] += 1
        self._exchange.pause()
        return True

    def _rest_in_request(self) -> bool:
        """The same while a request waits. A command's answer is waited for with what stands before it, disk or not."""
        if self._commanding or not self._rest():
            return False
        self._answer_asked()
        return True

    def _answer_asked(self) -> None:
        while self._complete and (ask := self._exchange.asked()) is not None:
            self._answer(ask)

    def _answer(self, ask: Ask) -> None:
        if ask.answer.cancelled():
            return
        lost = OFFLINE
        try:
            if ask.verb is Verb.INTERROGATE:
                self._interrogate()
                reply = Reply(Verdict.DONE)
            else:
                assert ask.command is not None
                self._memory.counts["commands"] += 1
                self._commanding = True
                if ask.verb is Verb.CANCEL:
                    lost = UNSURE
                    reply = self._transactions.cancel(ask.command)
                elif ask.verb is Verb.SELECT:
                    reply = self._transactions.select(ask.command)
                else:
                    reply = self._transactions.operate(ask.command)
        except BaseException:
            if ask.verb is Verb.OPERATE and self._transactions.oper_sent:
                lost = UNSURE
            self._exchange.answer(ask, lost)
            raise
        finally:
            self._commanding = False
        self._exchange.answer(ask, reply)
        self._transactions.tell()

    def _interrogate(self) -> None:
        assert self._taker is not None
        for block in self._blocks.values():
            if not self._taker.interrogate(block):
                self._read_data_set(block)
        self._poll()

    def _keep_alive(self) -> None:
        """Any answer will do, an error too; a missing one counts."""
        domain = self._places[0].ld if self._places else self._device.name
        try:
            self._connection.read(domain, "LLN0$ST$Beh")
        except RequestFailed:
            pass

    def _poll(self) -> None:
        if not self._polls:
            return
        now = clock.moment()
        self._deliver(self._poller.read(self._polls), now)

    # reports: inside tick
    def _on_report(self, report: int) -> None:
        counts = self._memory.counts
        now = clock.moment()
        block: Block | None = None
        try:
            block = self._blocks.get(reports.rpt_id_of(report))
            if block is None:
                counts["unknown_reports"] += 1
                return
            parsed = reports.parse(report, block.map.size)
            counts["segments"] += 1
            before = block.assembler.broken_segments
            whole = block.assembler.add(parsed, now.utc_ns)
        except reports.MalformedReportError as error:
            counts["malformed_reports"] += 1
            self._memory.say_once("malformed", "report not understood", device=self._device.name, cause=str(error))
            if block is not None and block.name.buffered:
                self._gap(f"{block.name}: a report was not understood ({error})")
            return
        block.last_report = time.monotonic()
        self._transactions.reported(block.members[index] for index, *_ in parsed.elements)
        if block.assembler.broken_segments != before:
            counts["broken_segments"] += 1
            self._gap(f"{block.name}: a segment of a report is missing")
        if whole is None:
            return
        counts["reports"] += 1
        if whole.overflow and (block.resumed or block.interrogated):
            # before the first interrogation of a block that is not resumed it tells of a time before ours,
            # and some servers set it on every fresh buffer
            self._gap(f"{block.name}: the buffer of {block.instance} overflowed")
            self._overflowed.append(block)
        self._emit(block, whole, now)
        block.interrogated = block.interrogated or (whole.interrogated and not block.backlog)
        if whole.conf_rev is not None and block.conf_rev is not None and whole.conf_rev != block.conf_rev:
            self._new_revision = (
                f"{block.name}: ConfRev is {whole.conf_rev} now, was {block.conf_rev}: all is read anew"
            )

    def _emit(self, block: Block, whole: reports.Assembled, now: clock.Moment) -> None:
        cursor = None
        if block.name.buffered and whole.entry_id:
            cursor = Mark(block.instance, whole.entry_id).cursor(block.name)
        if not block.name.buffered:
            self._deliver(whole.static, now)
            self._deliver(whole.changed, now, reported=True)
            return
        if whole.static or not whole.changed:
            last = None if whole.changed else cursor
            self._exchange.put(Deliver(self._batch(whole.static, now), events=True, cursor=last))
        if whole.changed:
            batch = self._batch(whole.changed, now, reported=True, repeat=block.doubtful)
            self._exchange.put(Deliver(batch, events=True, cursor=cursor))

    def _deliver(self, samples: list[Sample], now: clock.Moment, *, reported: bool = False) -> None:
        """State, or events where any point of the batch makes events."""
        if samples:
            events = any(self._events_of[sample.point] for sample in samples)
            self._exchange.put(Deliver(self._batch(samples, now, reported=reported), events))

    def _batch(
        self, samples: list[Sample], now: clock.Moment, *, reported: bool = False, repeat: bool = False
    ) -> Batch:
        return Batch(self._device.name, samples, now.utc_ns, reported=reported, repeat=repeat, mono_ns=now.mono_ns)

    def _gap(self, cause: str) -> None:
        self._memory.counts["gaps"] += 1
        self._exchange.put(Gap(cause))

    # controls: inside tick
    def _heard(self, domain: str, item: str, value: object) -> None:
        self._transactions.heard(domain, item, value)

    def _told(self, command_id: str, step: Step) -> None:
        self._exchange.soon(self._progress, command_id, step)
