"""The desk: requests in, answers out; the asyncio shell around the pure session of each controllable point.

    request -> gates -> session -> journal (INTENT on disk) -> gates again -> field -> feedback -> one outcome

Requests are judged in the order in which they come and never wait here; what a session wants done is carried out
behind it (sessions.py). This file is the daemon's side: the life of the desk, its requests, its timers.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import msgspec
import structlog

from gatewayd import clock as system_clock
from gatewayd import failpoint
from gatewayd.clock import ClockState
from gatewayd.control import audit, gates, restart, tags
from gatewayd.control import session as machine
from gatewayd.control.answers import Answers, Publish, asked_of, done
from gatewayd.control.gates import SECOND, Refusal
from gatewayd.control.hanging import Hanging, shown
from gatewayd.control.judge import Judge
from gatewayd.control.ledger import Ledger, Step
from gatewayd.control.rates import Limits, Rates
from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.rights_file import RightsFile
from gatewayd.control.seen import Key
from gatewayd.control.sessions import Sessions
from gatewayd.control.settings import ControlSettings
from gatewayd.control.states import SELECTS, Cancel, Clear, Direct, Ending, Operate, Select, Session, State
from gatewayd.control.station import Field, Grounds, Station
from gatewayd.control.tags import Tag, TagKind
from gatewayd.control.types import Answer, Request, Result, Stage
from gatewayd.control.types import Step as DeviceStep
from gatewayd.points.types import Link
from gatewayd.store import audit as audit_store
from gatewayd.store import commands
from gatewayd.store.journal import Journal
from gatewayd.store.types import JournalError

__all__ = ["Desk", "Field", "Station"]

log = structlog.get_logger("control")

HOUSEKEEPING_NS = SECOND
"""How often what nobody waits for is looked after: audit records, rights file, being the active gateway."""
HEAD_NS = 60 * SECOND
FORGET_AT_ONCE = 500
MOST_SHOWN = 10
"""Of each kind in a snapshot, which must fit into one message."""
STOP_MARGIN_S = 2.0
"""Beyond stop_budget_s: for the journal to take the last outcomes."""


class Desk:
    """One gateway's desk. Everything is called on the event loop's thread."""

    def __init__(
        self,
        settings: ControlSettings,
        station: Station,
        *,
        journal: Journal,
        field: Field,
        publish: Publish,
        encode_event: Callable[[Answer], bytes],
        publish_tags: Callable[[str, bytes], None] = lambda _key, _body: None,
        publish_audit_head: Callable[[bytes], None] = lambda _body: None,
        clock: Callable[[], ClockState] = system_clock.state,
        now_ns: Callable[[], int] = system_clock.now_ns,
        mono_ns: Callable[[], int] = system_clock.mono_ns,
        active: Callable[[], bool] = lambda: True,
    ) -> None:
        """publish: an answer, and what to call when the broker has taken it.

        encode_event: the payload of an outcome's numbered `control` event
        publish_tags: key such as `point/FDR12/CB/POS`, and JSON (b"" when nothing hangs there any more), to be retained
        publish_audit_head: where the audit trail ends, every 60 s; active: whether this gateway may command, for sure
        """
        self._settings = settings
        self._journal = journal
        self._publish_audit_head = publish_audit_head
        self._clock = clock
        self._now_ns = now_ns
        self._mono_ns = mono_ns
        self._wake = asyncio.Event()
        self._ledger = Ledger(journal, settings.audit_records, self._moment)
        self._judge = Judge(settings, Grounds(station, settings), active=active, trouble=lambda: self._ledger.trouble)
        self._rights_file = RightsFile(self._ledger.note, self._moment)
        self._answers = Answers(
            publish,
            ledger=self._ledger,
            rates=Rates(_limits(settings)),
            cautions=self._judge.cautions,
            moment=self._moment,
            now_ns=now_ns,
            mono_ns=mono_ns,
        )
        self._sessions = Sessions(
            self._judge,
            self._ledger,
            self._answers,
            field,
            encode_event=encode_event,
            wake=self._wake.set,
            moment=self._moment,
            now_ns=now_ns,
            mono_ns=mono_ns,
        )
        self._hanging = Hanging(
            self._judge,
            self._ledger,
            self._answers,
            concerned=self._tag_hung,
            publish=publish_tags,
            moment=self._moment,
            now_ns=now_ns,
        )
        self._links: dict[str, bool] = {}
        self._next_housekeeping = 0
        self._next_head = 0
        self._said_head = audit_store.START
        self._loaded = False
        self._stopping = False
        self._count: Counter[str] = Counter()

    # --- the life of the desk ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read tags and requests, give those without an outcome theirs. Sends nothing.

        With a journal that cannot be read now, commands are refused and it is tried again every second.
        """
        self._next_head = self._mono_ns()
        await self._load()

    async def _load(self) -> None:
        try:
            found = await self._journal.submit(_read_all)
        except (JournalError, sqlite3.Error) as error:
            if not self._ledger.trouble:
                log.error("the desk cannot read what it must know: commands are refused", cause=str(error))
            self._ledger.trouble = str(error)
            return
        verdicts = restart.judge(found, self._now_ns())
        moment = self._moment()
        crashed = found.last_word not in ("", "stop")
        bodies = [moment.body("crash", detail="there is no stop before this start")] if crashed else []
        bodies.append(moment.body("start", config=self._judge.grounds.station.config_sha256))
        bodies += [moment.answer("outcome", answer) for answer in verdicts.said]

        def work(db: sqlite3.Connection) -> None:
            commands.end(db, verdicts.rows)
            commands.end(db, verdicts.silent, silently=True)

        events = [self._sessions.event(answer) for answer in verdicts.said]
        try:
            await self._ledger.write(Step(work, bodies, events))
        except (JournalError, sqlite3.Error):
            return  # the ledger has said it; it is tried again
        failpoint.here("control-after-restart")
        for operator, tx, received_ns in found.keys:
            self._answers.seen.load(operator, tx, received_ns)
        self._judge.rights = self._rights_file.read(self._settings.rights_file)
        self._hanging.load(found.tags, found.tag_keys)
        self._sessions.hold(verdicts.held)
        self._loaded = True
        for answer in verdicts.said:
            self._answers.said(answer)
        for answer in verdicts.again:
            self._answers.said(msgspec.structs.replace(answer, duplicate=True, restart=True))
        self._count["restart_outcomes"] += len(verdicts.said)

    async def run(self) -> None:
        """Timers, audit heads, what nobody waits for; until cancelled."""
        while True:
            self._wake.clear()
            if not self._loaded and self._mono_ns() >= self._next_housekeeping:
                await self._load()
            self.tick()
            await self._pause(self._next_deadline())

    def poke(self) -> None:
        """Look at the clock again now."""
        self._wake.set()

    def tick(self) -> None:
        """Do what is due by now."""
        self._sessions.tick()
        now = self._mono_ns()
        if now >= self._next_housekeeping:
            self._next_housekeeping = now + HOUSEKEEPING_NS
            if self._loaded:
                self._housekeeping(now)

    def _next_deadline(self) -> int:
        deadline = self._sessions.next_deadline()
        return self._next_housekeeping if deadline is None else min(deadline, self._next_housekeeping)

    async def _pause(self, until_ns: int) -> None:
        """Until then by CLOCK_MONOTONIC, or until something changes."""
        try:
            async with asyncio.timeout(max(0, until_ns - self._mono_ns()) / SECOND):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _housekeeping(self, now: int) -> None:
        if self._rights_file.changed():
            self._take_rights()
        if not self._judge.active():
            self._demoted()
        self._answers.age(int(self._settings.request_window_s * SECOND), FORGET_AT_ONCE)
        self._ledger.flush()
        if now >= self._next_head:
            self._next_head = now + HEAD_NS
            self._show_head()

    def _take_rights(self) -> None:
        """Whoever has lost a right loses his selects with it."""
        self._judge.rights = self._rights_file.read(self._settings.rights_file)
        self._sessions.review_rights()

    def _show_head(self) -> None:
        head = self._ledger.head
        body = {"n": head.n, "hash": head.hash.hex(), "time": audit.stamp(self._now_ns())}
        self._publish_audit_head(msgspec.json.encode(body))
        if head != self._said_head:
            self._said_head = head
            log.info("audit head", n=head.n, hash=head.hash.hex())

    def _demoted(self) -> None:
        """Not the active gateway any more, or not sure of it (rows 7, 16, 28)."""
        budget = int(self._settings.stop_budget_s * SECOND)
        for point in list(self._sessions.busy.values()):
            selected = point.session.state is State.SELECTED
            reason = Reason.ABORTED_FAILOVER if selected else Reason.NOT_ACTIVE
            self._sessions.feed(point, Ending(Refusal(reason), budget))

    async def stop(self) -> None:
        """Refuse what comes, give every request its outcome within stop_budget_s, and put the end on record."""
        self._stopping = True
        budget = int(self._settings.stop_budget_s * SECOND)
        self._sessions.feed_all(Ending(Refusal(Reason.ABORTED_SHUTDOWN), budget))
        end = self._mono_ns() + budget
        while self._sessions.under_way and self._mono_ns() < end:
            self._wake.clear()
            self._sessions.tick()
            if self._sessions.under_way:
                await self._pause(min(self._sessions.next_deadline() or end, end))
        self._sessions.tick()
        if self._loaded:
            try:
                async with asyncio.timeout(STOP_MARGIN_S):
                    await self._wind_up()
            except TimeoutError:
                log.error("the journal did not take the last records in time", cause=self._ledger.trouble)
        await self._sessions.close()

    async def _wind_up(self) -> None:
        self._answers.age(0, FORGET_AT_ONCE, all_=True)
        await self._ledger.emptied()
        self._ledger.note(self._moment().body("stop"))
        await self._ledger.emptied()
        self._show_head()

    async def configure(self, settings: ControlSettings, station: Station) -> None:
        """A new configuration. Selects of points that changed end `aborted-reload`; all others live on."""
        before = self._judge.grounds
        was, is_ = before.station.config_sha256, station.config_sha256
        body = self._moment().body("configuration", before=was, after=is_)
        try:
            await self._ledger.write(Step(_nothing, [body]))
        except (JournalError, sqlite3.Error):
            self._ledger.note(body)
        # From here on nothing is waited for: the caller puts the points' values into the new database at once.
        self._settings = self._judge.settings = settings
        self._judge.grounds = Grounds(station, settings)
        self._answers.rates.configure(_limits(settings))
        self._ledger.configure(settings.audit_records)
        self._sessions.configure(before)
        if settings.rights_file != self._rights_file.name:
            self._take_rights()

    # --- requests ---------------------------------------------------------------------------------------------------

    async def request(self, request: Request) -> None:
        """One request of an operator; every one is answered through `publish`. Never raises."""
        try:
            self._request(request)
        except Exception:  # a fault of ours: whoever asks must not wait for ever
            log.exception("a request broke the desk", operator=request.operator, tx=request.tx)
            self._count["internal_errors"] += 1
            sent = request.stage in (Stage.OPERATE, Stage.DIRECT)
            reason, effect = (Reason.UNKNOWN, Effect.POSSIBLE) if sent else (Reason.INHIBITED, Effect.NONE)
            self._answers.say(done(asked_of(request), Refusal(reason, "internal error"), request.point, effect=effect))

    def _request(self, request: Request) -> None:
        """The gates of the request itself: syntax, retained, expiry, replay, identity."""
        self._count["asked"] += 1
        answers, key = self._answers, (request.operator, request.tx)
        within = answers.rates.ask(request.operator, self._mono_ns())
        limited = None if within else Refusal(Reason.RATE_LIMITED, "too many requests; wait a moment")
        known = bool(request.tx) and (key in answers.seen or self._sessions.open_request(key) is not None)
        window_ns = int(self._settings.request_window_s * SECOND)
        refusal = gates.fresh(request, self._now_ns(), window_ns, synchronised=self._clock().synchronised is True)
        if refusal is not None:
            answers.refuse(request, refusal, duplicate=known)
        elif not self._loaded:
            answers.refuse(request, Refusal(Reason.INHIBITED, f"the journal cannot be used: {self._ledger.trouble}"))
        elif known:
            self._repeat(request, key, limited)
        elif self._stopping:
            answers.refuse(request, Refusal(Reason.ABORTED_SHUTDOWN, "the gateway is being stopped"))
        elif who := self._judge.rights.identify(request, signed=self._settings.require_signature):
            answers.refuse(request, who)
        else:
            self._authentic(request, limited)

    def _repeat(self, request: Request, key: Key, limited: Refusal | None) -> None:
        """A request that came before: nothing is done, and what was said is said again."""
        self._count["repeats"] += 1
        point = self._sessions.open_request(key)
        answer = machine.progress(point.session, *key) if point is not None else None
        if answer is not None and answer.result is Result.SELECTED and point is not None:
            left = max((point.session.deadline or 0) - self._mono_ns(), 0)
            answer = msgspec.structs.replace(answer, valid_for_s=left / SECOND)
        answer = answer or self._answers.seen.answered(key)
        if answer is not None:
            self._answers.repeat(request, answer)
        elif limited is not None:
            self._answers.refuse(request, limited, duplicate=True)
        else:
            self._sessions.spawn(self._answers.look_up(request), f"repeat {request.tx}")

    def _authentic(self, request: Request, limited: Refusal | None) -> None:
        """A fresh request of a known operator."""
        match request.stage:
            case Stage.SELECT | Stage.DIRECT:
                self._begin(request, limited)
            case Stage.OPERATE:
                self._operate(request, limited)
            case Stage.CANCEL:
                self._cancel(request)
            case Stage.CLEAR:
                self._clear(request, limited)
            case Stage.TAG | Stage.INHIBIT:
                self._hanging.request(request, limited)

    def _begin(self, request: Request, limited: Refusal | None) -> None:
        judge = self._judge
        spec = judge.spec(request, request.point)
        wanted = spec if isinstance(spec, Refusal) else judge.wanted(spec, request)
        if isinstance(spec, Refusal) or isinstance(wanted, Refusal):
            self._answers.refuse(request, wanted if isinstance(wanted, Refusal) else Refusal(Reason.UNKNOWN_POINT))
            return
        order = judge.grounds.order(spec, wanted, test=request.test)
        refusal = judge.station(spec, order) or judge.lock(spec, request, self._sessions.sessions()) or limited
        if refusal is not None:
            self._answers.refuse(request, refusal)
            return
        point, asked, times = self._sessions.point(spec), asked_of(request), judge.grounds.times(spec)
        if request.stage is Stage.SELECT:
            self._sessions.feed(point, Select(asked, order, times, secrets.token_hex(16), None))
        else:
            self._sessions.feed(point, Direct(asked, order, times, None))

    def _operate(self, request: Request, limited: Refusal | None) -> None:
        judge = self._judge
        selected = self._sessions.selected(request.select_id)
        spec = judge.spec(request, selected.spec.name if selected is not None else request.point)
        wanted = spec if isinstance(spec, Refusal) else judge.wanted(spec, request)
        if isinstance(spec, Refusal) or isinstance(wanted, Refusal):
            self._answers.refuse(request, wanted if isinstance(wanted, Refusal) else Refusal(Reason.UNKNOWN_POINT))
            return
        point = self._sessions.point(spec)
        order = point.session.order
        refusal = judge.station(spec, order) if order is not None else None
        event = Operate(
            asked=asked_of(request),
            select_id=request.select_id,
            point=request.point,
            value=wanted.value,
            raw=wanted.raw,
            test=request.test,
            refusal=refusal,
            limited=limited is not None,
        )
        self._sessions.feed(point, event)

    def _cancel(self, request: Request) -> None:
        """Not limited by rate or gates: it can only take something back."""
        point = self._sessions.selected(request.select_id)
        if point is None:
            self._answers.refuse(request, Refusal(Reason.NOT_SELECTED, "no such select is live"))
        else:
            self._sessions.feed(point, Cancel(asked_of(request), request.select_id))

    def _clear(self, request: Request, limited: Refusal | None) -> None:
        spec = self._judge.spec(request, request.point)
        refusal = spec if isinstance(spec, Refusal) else self._judge.unwritable() or limited
        if isinstance(spec, Refusal) or refusal is not None:
            self._answers.refuse(request, refusal or Refusal(Reason.UNKNOWN_POINT))
        else:
            self._sessions.feed(self._sessions.point(spec), Clear(asked_of(request)))

    def _tag_hung(self, tag: Tag) -> None:
        concerned = [name for name, point in self._sessions.busy.items() if tag.on in tags.keys(point.spec)]
        self._sessions.review_soon(concerned)

    # --- what the field side tells ----------------------------------------------------------------------------------

    def changed(self, rows: Iterable[int], mono_ns: int) -> None:
        """The database took a batch that was received at `mono_ns`; called for every batch of every device."""
        self._sessions.changed(rows, mono_ns)

    def link(self, device: str, link: Link) -> None:
        """A device's link has changed."""
        up = link is Link.UP
        if self._links.get(device, False) is not up:
            self._links[device] = up
            self._ledger.note(self._moment().body("link", device=device, link=str(link)))
        self._sessions.link(device, up=up)

    def progress(self, command_id: str, step: DeviceStep) -> None:
        """A later word of a device on a command."""
        self._sessions.progress(command_id, step)

    # --- state ------------------------------------------------------------------------------------------------------

    def tags_of(self, point: str) -> list[Tag]:
        """The tags and inhibits that concern a point, wherever they hang."""
        return self._judge.tags_of(point)

    def counters(self) -> dict[str, int]:
        """Plain integers by name."""
        states = Counter(str(session.state) for session in self._sessions.sessions())
        return {
            **self._ledger.count,
            **(self._count + self._answers.count + self._sessions.count),
            **{f"now_{state}": number for state, number in states.items()},
            **{f"reason_{reason}": number for reason, number in self._answers.reasons.items()},
            "tags_hung": len(self._judge.board),
            "remembered_evicted": self._answers.seen.evicted,
            "not_on_record": int(bool(self._ledger.trouble) or not self._loaded),
        }

    @property
    def loaded(self) -> bool:
        """What hangs and what was open is read: until then commands are refused."""
        return self._loaded

    def snapshot(self) -> Mapping[str, object]:
        """For `gatewayd status`: what is selected, under way and held; tags and inhibits; the audit trail.

        Of each kind MOST_SHOWN at most; `counts` has how many there are.
        """
        now = self._mono_ns()
        found: dict[str, list[object]] = {"selects": [], "operations": [], "holds": [], "tags": [], "inhibits": []}
        for session in self._sessions.sessions():
            if session.state in _SHOWN_AS:
                found[_SHOWN_AS[session.state]].append(_shown(session, now))
        for tag in self._judge.board:
            found["inhibits" if tag.kind is TagKind.INHIBIT else "tags"].append(shown(tag))
        return {
            **{kind: some[:MOST_SHOWN] for kind, some in found.items()},
            "counts": {kind: len(all_) for kind, all_ in found.items()},
            "audit": {"n": self._ledger.head.n, "hash": self._ledger.head.hash.hex()},
            "trouble": self._ledger.trouble or self._judge.rights.broken,
        }

    def _moment(self) -> audit.Moment:
        return audit.Moment(self._now_ns(), synchronised=self._clock().synchronised is True)


def _read_all(db: sqlite3.Connection) -> restart.Found:
    commands.create_tables(db)
    bodies, keys = commands.tags(db)
    last_word = audit_store.last_word(db)
    return restart.Found(last_word, commands.open_requests(db), commands.untold(db), commands.keys(db), bodies, keys)


def _nothing(_: sqlite3.Connection) -> None:
    """Only audit records."""


def _limits(settings: ControlSettings) -> Limits:
    return Limits(settings.rate_per_s, settings.rate_burst, settings.refusals_per_s, settings.refusals_burst)


_SHOWN_AS = {
    State.SELECTING: "selects",
    State.SELECTED: "selects",
    State.CANCELLING: "selects",
    State.OPERATING: "operations",
    State.SUPERVISING: "operations",
    State.HOLD: "holds",
}


def _shown(session: Session, now: int) -> dict[str, object]:
    asked = session.operate or session.opened or (session.last.asked if session.last is not None else None)
    selecting = session.state in SELECTS
    return {
        "point": session.point,
        "state": str(session.state),
        "operator": asked.operator if asked is not None else "",
        "stage": "select" if selecting else "operate",
        "value": session.order.value if session.order is not None else None,
        "left_s": None if session.deadline is None else round(max(session.deadline - now, 0) / SECOND, 1),
    }
