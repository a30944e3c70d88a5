"""Commands in, answers out, over a connection of their own, so that data never delays them.

The session is clean and never outlives its connection: a broker cannot keep a command for us while we are away.
A broker without MQTT 5 gets no subscription, so every command there is refused by silence and a log line.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import structlog
from msgspec import json

from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.types import Answer, Request, Result
from gatewayd.mqtt import contract
from gatewayd.mqtt.client import REFUSED, Connection, Incoming, Session
from gatewayd.mqtt.contract import AckRequest, AskRequest, InterrogateRequest, ReplayRequest, Topics
from gatewayd.mqtt.pace import Backoff, Refusals
from gatewayd.mqtt.settings import MqttSettings

log = structlog.get_logger("mqtt")

REQUESTS_AT_ONCE = 64
"""Requests in the desk's hands at most; more are answered `rate-limited` at once."""
ANSWERS_WAITING = 1000
"""Answer messages kept while the broker is away; past it the oldest is dropped and counted."""
MAX_PACKET = 16 * 1024
"""Octets of a packet the broker may send us: a request of 4 KiB with topic and properties fits three times over."""


class _Taken:
    """Calls `then` when the broker has taken each message of an answer; never where one was dropped."""

    def __init__(self, messages: int, then: Callable[[], None]) -> None:
        self._missing = messages
        self._then = then

    def one(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._then()


class _Out(NamedTuple):
    topic: str
    payload: bytes
    correlation: bytes | None = None
    taken: _Taken | None = None


class Commands:
    """The command connection: requests to the desk, its answers to the askers.

    on_request:     the desk; called in the order of arrival, each in its own task. Must not raise
    on_interrogate, on_replay: called with well-formed requests only
    on_ask:         a question of a console, well-formed; gives the payload of its answer
    on_ack:         an acknowledgement of a consumer, well-formed; gives the payload of its answer
    """

    def __init__(
        self,
        settings: MqttSettings,
        *,
        on_request: Callable[[Request], Awaitable[None]],
        on_interrogate: Callable[[InterrogateRequest], None],
        on_replay: Callable[[ReplayRequest], None],
        on_ack: Callable[[AckRequest], bytes] | None = None,
        on_ask: Callable[[AskRequest], bytes] | None = None,
        now_ns: Callable[[], int] = time.time_ns,
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._topics = Topics(settings.base)
        self._prefixes = settings.reply_prefixes
        self._on_request = on_request
        self._on_interrogate = on_interrogate
        self._on_replay = on_replay
        self._on_ack = on_ack
        self._on_ask = on_ask
        self._now_ns = now_ns
        self._mono_ns = mono_ns
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: deque[_Out] = deque()
        self._sent: dict[int, _Out] = {}
        self._sent_count = 0
        self._wake = asyncio.Event()
        self._emptied = asyncio.Event()
        self._refusals = Refusals(settings.base)
        self.connection = Connection(
            settings,
            client_id=f"{settings.client_id}-cmd",
            on_message=self._receive,
            only_mqtt5=True,
            max_packet=MAX_PACKET,
        )
        self.requests = 0
        self.bad_requests = 0
        self.too_many = 0
        self.foreign_topics = 0
        self.response_topics_ignored = 0
        self.answers_dropped = 0

    def counters(self) -> dict[str, int]:
        """Plain integers by name."""
        return {
            "connected": int(self.connection.connected),
            "connects": self.connection.connects,
            "requests": self.requests,
            "bad_requests": self.bad_requests,
            "too_many": self.too_many,
            "foreign_topics": self.foreign_topics,
            "response_topics_ignored": self.response_topics_ignored,
            "answers_waiting": len(self._waiting) + len(self._sent),
            "answers_dropped": self.answers_dropped,
            "refused": self._refusals.count,
        }

    async def run(self) -> None:
        """Serve until cancelled; answers that wait then are still sent if the broker takes them within 2 s."""
        try:
            await self.connection.run(self._serve, self._farewell)
        finally:
            for task in self._tasks:
                task.cancel()

    def answer(self, answer: Answer, taken: Callable[[], None] | None = None) -> None:
        """Send an answer to `reply/<operator>`, to the asker's Response Topic, and to `control/<point>` for all.

        Kept while the broker is away. Never blocks. taken: called when the broker has acknowledged all of it.
        """
        payload = contract.reply(answer)
        own = self._topics.reply(answer.operator)
        asked = answer.reply_to
        outs: list[_Out] = []
        if asked is not None and asked.topic != own:
            outs.append(_Out(asked.topic, payload, asked.correlation))
        if contract.sound_topic(own):
            outs.append(_Out(own, payload, asked.correlation if asked is not None else None))
        public = self._topics.control(answer.point)
        if answer.point and answer.reason is not Reason.UNKNOWN_POINT and contract.sound_topic(public):
            outs.append(_Out(public, contract.control(answer)))
        counting = _Taken(len(outs), taken) if taken is not None else None
        for out in outs:
            self._put(out._replace(taken=counting))
        if taken is not None and not outs:
            taken()  # there is nobody who could be told

    def _put(self, out: _Out) -> None:
        if len(self._waiting) >= ANSWERS_WAITING:
            self._waiting.popleft()
            if not self.answers_dropped:
                log.error("answers to commands are dropped: the broker is away for too long", limit=ANSWERS_WAITING)
            self.answers_dropped += 1
        self._waiting.append(out)
        self._wake.set()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _receive(self, message: Incoming) -> None:
        where = self._topics.request(message.topic)
        if where is None:
            self.foreign_topics += 1
        elif where.what == "interrogate":
            interrogate = contract.decode_interrogate(where, message.payload, retained=message.retained)
            if interrogate.bad:
                self._refuse(message.topic, interrogate.bad)
            else:
                self._on_interrogate(interrogate)
        elif where.what == "replay":
            replay = contract.decode_replay(where, message.payload, retained=message.retained)
            if replay.bad:
                self._refuse(message.topic, replay.bad)
            if not message.retained:
                self._on_replay(replay)  # a bad one is answered too, with its reason
        elif where.what == "ack":
            ack = contract.decode_ack(where, message.payload, retained=message.retained)
            if ack.bad:
                self._refuse(message.topic, ack.bad)
            if contract.sound_name(ack.consumer) and self._on_ack is not None and not message.retained:
                answer = contract.acked(ack.epoch, ack.seq, ack.bad, 0) if ack.bad else self._on_ack(ack)
                self._put(_Out(self._topics.acked(ack.consumer), answer))
        elif where.what == "ask":
            ask = contract.decode_ask(where, message.payload, retained=message.retained)
            if ask.bad:
                self._refuse(message.topic, ask.bad)
            if contract.sound_name(ask.client) and self._on_ask is not None and not message.retained:
                answer = json.encode({"bad": ask.bad}) if ask.bad else self._on_ask(ask)
                reply_to = message.properties.correlation
                self._put(_Out(self._topics.answered(ask.client), answer, reply_to))
        else:
            self._command(message)

    def _refuse(self, topic: str, why: str) -> None:
        self.bad_requests += 1
        log.info("a request is not understood", topic=topic[:200], why=why)

    def _command(self, message: Incoming) -> None:
        request = contract.decode(
            self._topics,
            message.topic,
            message.payload,
            message.properties,
            retained=message.retained,
            reply_prefixes=self._prefixes,
            received_ns=self._now_ns(),
            received_mono=self._mono_ns(),
        )
        if request is None:
            self.foreign_topics += 1
            return
        self.requests += 1
        if request.bad:
            self.bad_requests += 1
        if message.properties.response_topic and request.reply_to is None:
            self.response_topics_ignored += 1
        if len(self._tasks) >= REQUESTS_AT_ONCE:
            self.too_many += 1
            self.answer(_refusal(request, Reason.RATE_LIMITED, self._now_ns()))
            return
        task = asyncio.get_running_loop().create_task(self._hand_over(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hand_over(self, request: Request) -> None:
        try:
            await self._on_request(request)
        except Exception:  # one request that breaks must not end the others
            log.exception("a request broke the desk", operator=request.operator, tx=request.tx, point=request.point)

    # --- the shell --------------------------------------------------------------------------------------------------

    async def _serve(self, session: Session) -> None:
        unacknowledged = list(self._sent.values())
        self._sent.clear()
        self._waiting.extendleft(reversed(unacknowledged))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._subscribe(session))
            tasks.create_task(self._send_answers(session))

    async def _subscribe(self, session: Session) -> None:
        backoff = Backoff()
        filters = self._topics.requests
        said = False
        while True:
            codes = await session.subscribe(filters, stored=False)
            refused = tuple(one for one, code in zip(filters, codes, strict=True) if code >= REFUSED)
            if not refused:
                if said:
                    log.info("the broker grants the subscriptions for requests again")
                return
            if not said:
                said = True
                log.warning("the broker refuses subscriptions; check its ACL", topics=", ".join(refused))
            await asyncio.sleep(backoff.next())

    async def _send_answers(self, session: Session) -> None:
        while True:
            while self._waiting:
                await session.wait_room()
                out = self._waiting.popleft()
                self._sent_count += 1
                number = self._sent_count
                self._sent[number] = out
                session.send(
                    out.topic,
                    out.payload,
                    partial(self._acknowledged, number),
                    correlation=out.correlation,
                )
            self._wake.clear()
            await self._wake.wait()

    def _acknowledged(self, number: int, code: int) -> None:
        out = self._sent.pop(number, None)
        if out is not None and code >= REFUSED:
            self._refusals.refused(out.topic, code)  # a right that is missing stays missing: the next one goes on
        elif out is not None:
            self._refusals.taken(out.topic)
        if out is not None and out.taken is not None:
            out.taken.one()
        if not self._sent and not self._waiting:
            self._emptied.set()

    async def _farewell(self, session: Session) -> None:
        sending = asyncio.ensure_future(self._send_answers(session))
        try:
            while self._sent or self._waiting:
                self._emptied.clear()
                await self._emptied.wait()
        finally:
            sending.cancel()


def _refusal(request: Request, reason: Reason, now_ns: int) -> Answer:
    return Answer(
        operator=request.operator,
        tx=request.tx,
        point=request.point,
        stage=request.stage,
        result=Result.DONE,
        reason=reason,
        effect=Effect.NONE,
        time_ns=now_ns,
        reply_to=request.reply_to,
    )
