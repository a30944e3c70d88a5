"""Tags and inhibits on request: on disk, in force, and shown."""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Iterable

import msgspec
import structlog

from gatewayd.control import audit, tagging, tags
from gatewayd.control.answers import Answers, asked_of, done
from gatewayd.control.gates import Refusal
from gatewayd.control.judge import Judge
from gatewayd.control.ledger import Ledger, Step, ended
from gatewayd.control.reasons import Reason
from gatewayd.control.tags import Tag
from gatewayd.control.types import Answer, Request, Stage
from gatewayd.store import commands

log = structlog.get_logger("control")


class Hanging:
    """Hangs tags on `judge.board` and takes them away.

    concerned: told each tag that has just been hung, so that selects it forbids end
    publish:   key such as `point/FDR12/CB/POS`, and JSON, b"" when nothing hangs there any more
    """

    def __init__(
        self,
        judge: Judge,
        ledger: Ledger,
        answers: Answers,
        *,
        concerned: Callable[[Tag], None],
        publish: Callable[[str, bytes], None],
        moment: Callable[[], audit.Moment],
        now_ns: Callable[[], int],
    ) -> None:
        self._judge = judge
        self._ledger = ledger
        self._answers = answers
        self._concerned = concerned
        self._publish = publish
        self._moment = moment
        self._now_ns = now_ns

    def load(self, bodies: Iterable[bytes], keys: Iterable[str]) -> None:
        """What hangs on disk, and every key that ever had something: shown, or cleared at the broker."""
        for body in bodies:
            try:
                self._judge.board.put(msgspec.msgpack.decode(body, type=Tag))
            except msgspec.MsgspecError as error:
                log.error("a stored tag cannot be read", cause=str(error))
        for key in keys:
            self._show(key)

    def request(self, request: Request, limited: Refusal | None) -> None:
        """One tag or inhibit request. limited: why the operator may not ask now."""
        inhibit = request.stage is Stage.INHIBIT
        try:
            wish = tags.wish(request.body, inhibit=inhibit)
        except ValueError as error:
            self._answers.refuse(request, Refusal(Reason.BAD_REQUEST, str(error)))
            return
        judge = self._judge
        specs, rights = judge.grounds.specs, judge.rights
        if wish.remove:
            tag = tagging.removed(wish, request.operator, judge.board, specs, rights, inhibit=inhibit)
        else:
            new_id, now_ns = secrets.token_hex(4), self._now_ns()
            tag = tagging.placed(wish, request.operator, judge.board, specs, rights, new_id=new_id, now_ns=now_ns)
        refusal = tag if isinstance(tag, Refusal) else judge.unwritable() or limited
        if isinstance(tag, Refusal) or refusal is not None:
            self._answers.refuse(request, refusal or Refusal(Reason.BAD_REQUEST))
        elif wish.remove:
            self._take(request, tag)
        else:
            self._hang(request, tag)

    def _hang(self, request: Request, tag: Tag) -> None:
        """In force at once, since it only takes control away; shown and answered when it is on disk."""
        board = self._judge.board
        board.put(tag)
        self._concerned(tag)

        def work(db: sqlite3.Connection) -> None:
            commands.put_tag(db, tag.id, tag.on, msgspec.msgpack.encode(tag))

        def failed() -> None:
            board.take(tag.id)

        self._write(request, tag, "tag-set", work, lambda: None, failed)

    def _take(self, request: Request, tag: Tag) -> None:
        """In force until its removal is on disk."""
        board = self._judge.board

        def work(db: sqlite3.Connection) -> None:
            commands.remove_tag(db, tag.id)

        def written() -> None:
            if board.get(tag.id) is not None:
                board.take(tag.id)

        self._write(request, tag, "tag-removed", work, written, lambda: None)

    def _write(
        self,
        request: Request,
        tag: Tag,
        what: str,
        change: Callable[[sqlite3.Connection], None],
        written: Callable[[], None],
        failed: Callable[[], None],
    ) -> None:
        asked = asked_of(request)
        answer = self._answer(request, tag)
        gone = self._answers.remember(asked)
        self._answers.knows(asked, answer)

        def work(db: sqlite3.Connection) -> None:
            commands.forget(db, gone)
            change(db)
            commands.end(db, [ended(asked, answer)])

        def finished(future: asyncio.Future[None]) -> None:
            error = future.exception()
            if error is not None:
                failed()
                refused = done(asked, Refusal(Reason.INHIBITED, f"it cannot be put on record: {error}"), answer.point)
                self._answers.knows(asked, refused)
                self._answers.say(refused)
                return
            written()
            self._answers.count[what.replace("-", "_")] += 1
            self._show(tag.on)
            self._answers.said(answer)

        body = self._moment().answer(what, answer, note=tag.note)
        self._ledger.write(Step(work, [body])).add_done_callback(finished)

    def _answer(self, request: Request, tag: Tag) -> Answer:
        point = tag.on.removeprefix("point/") if tag.on.startswith("point/") else ""
        answer = done(asked_of(request), Refusal(Reason.OK, tag.describe()), point)
        return msgspec.structs.replace(answer, tag=tag.id, time_ns=self._now_ns())

    def _show(self, on: str) -> None:
        hung = [shown(tag) for tag in self._judge.board.on(on)]
        self._publish(tags.topic(on), msgspec.json.encode({"on": on, "tags": hung}) if hung else b"")


def shown(tag: Tag) -> dict[str, str]:
    """A tag as everybody may see it."""
    time = audit.stamp(tag.time_ns)
    return {"id": tag.id, "kind": tag.kind, "on": tag.on, "owner": tag.owner, "note": tag.note, "time": time}
