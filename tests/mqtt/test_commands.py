import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.types import Answer, Native, Request, Result, Stage
from gatewayd.mqtt import commands as module
from gatewayd.mqtt import contract
from gatewayd.mqtt.commands import Commands
from gatewayd.mqtt.contract import AckRequest
from tests.brokers import Iotcore, Mosquitto, until
from tests.mqtt.support import BASE, console, running, settings

TX = "6f2c6a0e-0b0f-4a52-9a3c-111111111111"


def answer(request: Request, result: Result = Result.DONE, reason: Reason = Reason.OK, **more) -> Answer:
    return Answer(
        operator=request.operator,
        tx=request.tx,
        point=request.point,
        stage=request.stage,
        result=result,
        reason=reason,
        effect=Effect.NONE,
        time_ns=1_000_000_000,
        reply_to=request.reply_to,
        **more,
    )


class Desk:
    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.interrogations: list[object] = []
        self.replays: list[object] = []
        self.acks: list[AckRequest] = []
        self.commands: Commands | None = None

    def on_ack(self, request: AckRequest) -> bytes:
        self.acks.append(request)
        return contract.acked(request.epoch, request.seq, "ok", request.seq)

    async def on_request(self, request: Request) -> None:
        self.requests.append(request)
        if request.bad:
            self.commands.answer(answer(request, reason=Reason.BAD_REQUEST, detail=request.bad))
        elif request.retained:
            self.commands.answer(answer(request, reason=Reason.RETAINED))
        elif request.stage is Stage.SELECT:
            self.commands.answer(answer(request, Result.SELECTED, select_id="ab" * 16, valid_for_s=30.0))
        else:
            self.commands.answer(answer(request, native=Native("dnp3", 0, "SUCCESS")))


@contextlib.asynccontextmanager
async def desk(url: str, **more) -> AsyncIterator[Desk]:
    one = Desk()
    one.commands = Commands(
        settings(url, **more),
        on_request=one.on_request,
        on_interrogate=one.interrogations.append,
        on_replay=one.replays.append,
        on_ack=one.on_ack,
    )
    async with running(one.commands):
        yield one


async def listening(one: Desk, operator) -> None:
    """The subscription is in place when a request gets through."""
    while not one.replays:
        await operator.publish("replay/probe", {"epoch": "probe", "from": 1, "to": 1})
        await asyncio.sleep(0.02)


async def test_select_and_operate_are_answered_to_the_operator_and_shown_to_all(broker):
    async with desk(broker.url) as one, console(broker.url, f"{BASE}/reply/#", f"{BASE}/control/#") as operator:
        await listening(one, operator)
        body = {"tx": TX, "point": "FDR12/CB/POS", "value": "open", "expires_at": "2026-11-24T01:02:03.004Z"}
        await operator.publish("cmd/alice/select", body, user=[("key", "k1"), ("sig", "c2ln")])
        await until(lambda: operator.last("reply/alice") and operator.last("control/FDR12/CB/POS"))
        reply, shown = operator.last("reply/alice"), operator.last("control/FDR12/CB/POS")
        assert reply["select_id"] == "ab" * 16
        assert (reply["tx"], reply["stage"], reply["result"], reply["reason"]) == (TX, "select", "selected", "ok")
        assert (reply["effect"], reply["valid_for_s"], reply["duplicate"]) == ("none", 30.0, False)
        assert "select_id" not in shown
        assert (shown["operator"], shown["time"]) == ("alice", "1970-01-01T00:00:01.000Z")
        assert all((m.qos, m.retain) == (1, False) for m in operator.heard)
        await operator.publish("cmd/alice/operate", {**body, "select_id": "ab" * 16})
        await until(lambda: operator.last("reply/alice")["stage"] == "operate")
        assert operator.last("reply/alice")["native"] == {"proto": "dnp3", "code": 0, "name": "SUCCESS"}
        select, operate = one.requests
        assert (select.operator, select.point, select.value) == ("alice", "FDR12/CB/POS", "open")
        assert select.expires_ns == 1_795_482_123_004_000_000
        assert (select.key, select.sig, select.raw_topic) == ("k1", "c2ln", f"{BASE}/cmd/alice/select")
        assert b"FDR12" in select.raw_payload
        assert (operate.stage, operate.select_id, operate.retained) == (Stage.OPERATE, "ab" * 16, False)
        assert select.received_mono <= operate.received_mono


async def test_a_retained_command_says_so_when_it_arrives_live_and_never_arrives_later(broker):
    body = {"tx": TX, "point": "A/CB", "value": "open", "expires_at": "2026-11-24T01:02:03.004Z"}
    async with console(broker.url, f"{BASE}/reply/#") as operator:
        await operator.publish("cmd/alice/direct", body, retain=True)  # stored before we come
        async with desk(broker.url) as one:
            await listening(one, operator)
            await operator.publish("cmd/bob/direct", body, retain=True)  # stored and delivered live
            await until(lambda: operator.last("reply/bob"))
            assert operator.last("reply/bob")["reason"] == "retained"
            assert [(r.operator, r.retained) for r in one.requests] == [("bob", True)]


async def test_a_command_sent_while_we_are_away_is_not_kept_for_us(broker):
    body = {"tx": TX, "point": "A/CB", "value": "open", "expires_at": "2026-11-24T01:02:03.004Z"}
    async with console(broker.url) as operator:
        async with desk(broker.url) as one:
            await listening(one, operator)
        await operator.publish("cmd/alice/direct", body)
        async with desk(broker.url) as two:
            await listening(two, operator)
            assert not two.requests


@pytest.mark.parametrize(
    ("response_topic", "honoured"),
    [
        (f"{BASE}/reply/alice/console7", True),
        ("scada/replies/alice", True),
        (f"{BASE}/reply/bob", False),
        (f"{BASE}/cmd/alice/operate", False),
        (f"{BASE}/status", False),
        ("scada/repliesandmore", False),
        ("elsewhere", False),
    ],
)
async def test_a_response_topic_is_honoured_only_where_it_is_allowed(broker, response_topic, honoured):
    async with (
        desk(broker.url, reply_prefixes=("scada/replies",)) as one,
        console(broker.url, f"{BASE}/reply/#", f"{BASE}/status", "scada/#", "elsewhere") as operator,
    ):
        await listening(one, operator)
        body = {"tx": TX, "select_id": "ab"}
        await operator.publish("cmd/alice/cancel", body, response_topic=response_topic, correlation=b"\x00\xff7")
        await until(lambda: operator.on("reply/alice"))
        answers = [m for m in operator.heard if m.topic == response_topic]
        assert [m.correlation for m in answers] == ([b"\x00\xff7"] if honoured else [])
        assert one.commands.counters()["response_topics_ignored"] == (0 if honoured else 1)
        assert len(one.requests) == 1  # nothing of ours came back as a command


async def test_the_own_reply_topic_as_response_topic_gets_one_answer_with_its_correlation(broker):
    async with desk(broker.url) as one, console(broker.url, f"{BASE}/reply/#") as operator:
        await listening(one, operator)
        for tx in ("one", "two"):
            body = {"tx": tx, "select_id": "ab"}
            await operator.publish("cmd/alice/cancel", body, response_topic=f"{BASE}/reply/alice", correlation=b"7")
        await until(lambda: operator.on("reply/alice") and operator.last("reply/alice")["tx"] == "two")
        assert [(m.body["tx"], m.correlation) for m in operator.on("reply/alice")] == [("one", b"7"), ("two", b"7")]


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[" * 3000, b'{"tx":1}', b"x" * 6000, b'{"tx":"a","tx":"b"}'])
async def test_rubbish_is_answered_with_its_reason(broker, payload):
    async with desk(broker.url) as one, console(broker.url, f"{BASE}/reply/#") as operator:
        await listening(one, operator)
        await operator.publish("cmd/alice/select", payload)
        await until(lambda: operator.last("reply/alice"))
        assert operator.last("reply/alice")["reason"] == "bad-request"
        assert operator.last("reply/alice")["detail"] == one.requests[0].bad


async def test_an_operators_name_with_odd_characters_is_refused(broker):
    async with desk(broker.url) as one, console(broker.url, f"{BASE}/reply/#") as operator:
        await listening(one, operator)
        await operator.publish("cmd/al ice/cancel", {"tx": TX, "select_id": "ab"})
        await until(lambda: one.requests)
        assert "name" in one.requests[0].bad


async def test_a_packet_beyond_all_limits_never_reaches_us(broker):
    async with desk(broker.url) as one, console(broker.url, f"{BASE}/reply/#") as operator:
        await listening(one, operator)
        await operator.publish("cmd/alice/select", b"x" * 100_000)
        await operator.publish("cmd/alice/cancel", {"tx": TX, "select_id": "ab"})
        await until(lambda: one.requests)
        assert [request.stage for request in one.requests] == [Stage.CANCEL]
        assert one.commands.connection.connects == 1


async def test_interrogations_and_replays_are_handed_on_and_retained_ones_are_not(broker):
    async with desk(broker.url) as one, console(broker.url) as operator:
        await listening(one, operator)
        one.replays.clear()
        await operator.publish("interrogate/hmi", {"device": "FDR12"})
        await operator.publish("interrogate/hmi", {})
        await operator.publish("interrogate/hmi", {"device": None}, retain=True)
        await operator.publish("interrogate/hmi", {"device": 7})
        await operator.publish("replay/hist", {"epoch": "e1", "from": 5, "to": 9}, retain=True)
        await operator.publish("replay/hist", {"epoch": "e1", "from": 9, "to": 5})
        await operator.publish("replay/hist", {"epoch": "e1", "from": 5, "to": 9})
        await until(lambda: len(one.replays) == 2)
        assert [request.device for request in one.interrogations] == ["FDR12", None]
        assert one.replays[0].bad
        assert (one.replays[1].client, one.replays[1].first, one.replays[1].last) == ("hist", 5, 9)
        assert one.commands.counters()["bad_requests"] == 4


async def test_answers_wait_for_the_broker_and_come_in_order(tmp_path: Path):
    async with Mosquitto(tmp_path) as broker, desk(broker.url) as one:
        async with console(broker.url) as operator:
            await listening(one, operator)
            await operator.publish("cmd/alice/cancel", {"tx": "first", "select_id": "ab"})
            await until(lambda: one.requests)
        await broker.kill()
        await until(lambda: not one.commands.connection.connected)
        for n in range(100):
            one.commands.answer(answer(one.requests[0], detail=str(n)))
        assert one.commands.counters()["answers_waiting"] >= 100
        one.commands.connection._settings = settings("mqtt://127.0.0.1:1")  # nobody there, until somebody listens
        await broker.start()
        async with console(broker.url, f"{BASE}/reply/#") as operator:
            one.commands.connection._settings = settings(broker.url)
            # the answer to the first request comes again where its PUBACK was lost with the broker
            await until(lambda: operator.last("reply/alice") and operator.last("reply/alice").get("detail") == "99")
            details = [m.body["detail"] for m in operator.on("reply/alice") if "detail" in m.body]
            assert details == [str(n) for n in range(100)]
            await until(lambda: one.commands.counters()["answers_waiting"] == 0)


async def test_an_answer_the_broker_did_not_acknowledge_is_sent_again(broker):
    async with desk(broker.url) as one:
        await until(lambda: one.commands.connection.connected)
        broker.freeze()
        taken = []
        request = Request(stage=Stage.CANCEL, operator="alice", tx="t7")
        one.commands.answer(answer(request), lambda: taken.append("t7"))
        await until(lambda: one.commands._sent)
        assert taken == []
        one.commands.connection._settings = settings("mqtt://127.0.0.1:1")  # nobody there, until somebody listens
        await broker.kill()
        await until(lambda: not one.commands.connection.connected)
        await broker.start()
        async with console(broker.url, f"{BASE}/reply/#") as operator:
            one.commands.connection._settings = settings(broker.url)
            await until(lambda: operator.last("reply/alice"))
            assert operator.last("reply/alice")["tx"] == "t7"
            await until(lambda: taken == ["t7"])
            await until(lambda: not one.commands._sent)
        assert taken == ["t7"]


async def test_an_answer_nobody_could_be_told_counts_as_taken_and_a_dropped_one_does_not(monkeypatch):
    monkeypatch.setattr(module, "ANSWERS_WAITING", 1)
    one, taken = Desk(), []
    commands = Commands(
        settings("mqtt://127.0.0.1:1"), on_request=one.on_request, on_interrogate=print, on_replay=print
    )
    commands.answer(answer(Request(stage=Stage.CANCEL, operator="a#", tx="t")), lambda: taken.append("nobody"))
    assert taken == ["nobody"]
    commands.answer(answer(Request(stage=Stage.CANCEL, operator="alice", tx="t")), lambda: taken.append("alice"))
    commands.answer(answer(Request(stage=Stage.CANCEL, operator="alice", tx="t")))
    assert commands.counters()["answers_dropped"] == 1
    assert taken == ["nobody"]


async def test_answers_beyond_the_limit_are_counted(monkeypatch):
    monkeypatch.setattr(module, "ANSWERS_WAITING", 10)
    one = Desk()
    commands = Commands(
        settings("mqtt://127.0.0.1:1"),
        on_request=one.on_request,
        on_interrogate=one.interrogations.append,
        on_replay=one.replays.append,
        on_ack=one.on_ack,
    )
    request = Request(stage=Stage.CANCEL, operator="alice", tx="t")
    for _ in range(15):
        commands.answer(answer(request))
    assert commands.counters()["answers_waiting"] == 10
    assert commands.counters()["answers_dropped"] == 5


async def test_answers_that_wait_at_the_end_are_still_sent(broker):
    async with console(broker.url, f"{BASE}/reply/#") as operator:
        async with desk(broker.url) as one:
            await listening(one, operator)
            await operator.publish("cmd/alice/cancel", {"tx": "last", "select_id": "ab"})
            await until(lambda: one.requests)
            for n in range(50):
                one.commands.answer(answer(one.requests[0], detail=str(n)))
        await until(lambda: (operator.last("reply/alice") or {}).get("detail") == "49")


async def test_more_requests_than_the_desk_takes_are_answered_rate_limited(broker):
    hold = asyncio.Event()
    one = Desk()

    async def slow(request: Request) -> None:
        await hold.wait()
        one.commands.answer(answer(request))

    one.commands = Commands(settings(broker.url), on_request=slow, on_interrogate=print, on_replay=one.replays.append)
    async with running(one.commands), console(broker.url, f"{BASE}/reply/#") as operator:
        await listening(one, operator)
        count = module.REQUESTS_AT_ONCE + 5
        for n in range(count):
            await operator.publish("cmd/alice/cancel", {"tx": f"t{n}", "select_id": "ab"})
        await until(lambda: len(operator.on("reply/alice")) == 5)
        assert {m.body["reason"] for m in operator.heard} == {"rate-limited"}
        hold.set()
        await until(lambda: len({m.body["tx"] for m in operator.on("reply/alice")}) == count)
        assert one.commands.counters()["too_many"] == 5


async def test_a_desk_that_breaks_does_not_end_the_connection(broker):
    one = Desk()

    async def breaks(request: Request) -> None:
        one.requests.append(request)
        raise KeyError(request.tx)

    one.commands = Commands(settings(broker.url), on_request=breaks, on_interrogate=print, on_replay=one.replays.append)
    async with running(one.commands), console(broker.url) as operator:
        await listening(one, operator)
        await operator.publish("cmd/alice/cancel", {"tx": "1", "select_id": "ab"})
        await operator.publish("cmd/alice/cancel", {"tx": "2", "select_id": "ab"})
        await until(lambda: len(one.requests) == 2)
        assert one.commands.connection.connects == 1


async def test_an_unknown_point_or_an_unsound_name_is_shown_to_nobody_else(broker):
    async with desk(broker.url) as one, console(broker.url) as operator:
        await listening(one, operator)
        request = Request(stage=Stage.DIRECT, operator="alice", tx="t", point="no/such")
        one.commands.answer(answer(request, reason=Reason.UNKNOWN_POINT))
        one.commands.answer(answer(Request(stage=Stage.DIRECT, operator="alice", tx="u", point="a/+/#")))
        await until(lambda: len(operator.on("reply/alice")) == 2)
        assert not operator.on("control/")


def documented_acl() -> list[str]:
    """The ACL of etc/mosquitto, for this station."""
    text = (Path(__file__).parents[2] / "etc" / "mosquitto" / "gatewayd.acl").read_text(encoding="utf-8")
    return [line.replace("gw/riverside", BASE).replace("gw-riverside", "gw") for line in text.splitlines()]


async def test_the_documented_acl_keeps_operators_apart(tmp_path):
    users = {"gw": "g", "alice": "a", "bob": "b"}
    (tmp_path / "password").write_text("g")
    async with (
        Mosquitto(tmp_path / "broker", acl=documented_acl(), users=users) as broker,
        desk(broker.url, username="gw", password_file=str(tmp_path / "password")) as one,
        console(broker.url, f"{BASE}/reply/#", f"{BASE}/cmd/#", username="alice", password="a") as alice,
        console(broker.url, username="bob", password="b") as bob,
    ):
        body = {"tx": "t", "select_id": "5ec2e7", "point": "A/CB", "value": 1}
        while not one.requests:
            await bob.publish("cmd/bob/select", body)
            await asyncio.sleep(0.02)
        await bob.publish("cmd/alice/operate", body)  # refused by the broker
        await bob.publish("cmd/bob/cancel", {"tx": "end", "select_id": "5ec2e7"})
        await until(lambda: bob.on("reply/bob") and bob.last("reply/bob")["tx"] == "end")
        await alice.publish("cmd/alice/cancel", {"tx": "mine", "select_id": "5ec2e7"})
        await until(lambda: alice.on("reply/alice"))
        assert {request.operator for request in one.requests} == {"alice", "bob"}
        assert not [request for request in one.requests if request.stage is Stage.OPERATE]
        assert {m.topic for m in alice.heard} == {f"{BASE}/reply/alice"}
        assert bob.on("control/A/CB")


async def test_a_broker_without_mqtt_5_gets_no_subscription(tmp_path):
    async with Iotcore(tmp_path, mqtt5=False) as broker, desk(broker.url) as one:
        await until(lambda: one.commands.connection._said_down)
        assert one.commands.connection.connects == 0


async def test_iotcore_carries_commands_and_answers(tmp_path):
    async with (
        Iotcore(tmp_path) as broker,
        desk(broker.url) as one,
        console(broker.url, f"{BASE}/reply/#", f"{BASE}/control/#") as operator,
    ):
        await listening(one, operator)
        body = {"tx": TX, "point": "A/CB", "value": True, "expires_at": "2026-11-24T01:02:03.004Z"}
        await operator.publish(
            "cmd/alice/direct", body, response_topic=f"{BASE}/reply/alice/1", correlation=b"\x01\x02"
        )
        await until(lambda: operator.last("reply/alice/1") and operator.last("control/A/CB"))
        assert operator.on("reply/alice/1")[0].correlation == b"\x01\x02"


async def test_an_acknowledgement_is_answered_to_its_consumer_nonsense_too(broker):
    async with desk(broker.url) as one, console(broker.url, f"{BASE}/acked/#") as consumer:
        await listening(one, consumer)
        await consumer.publish("ack/historian", {"epoch": "e1", "seq": 1201})
        await until(lambda: consumer.last("acked/historian"))
        assert consumer.last("acked/historian") == {"epoch": "e1", "seq": 1201, "result": "ok", "acknowledged": 1201}
        assert one.acks == [AckRequest("historian", "e1", 1201)]
        for body in (b"\xff", {"epoch": "e1"}, {"epoch": "e1", "seq": -1}, {"seq": 4}, {"epoch": "e1", "seq": 1 << 70}):
            before = len(consumer.heard)
            await consumer.publish("ack/historian", body)
            await until(lambda before=before: len(consumer.heard) > before)
            assert consumer.last("acked/historian")["result"] not in ("", "ok")
        await consumer.publish("ack/historian", {"epoch": "e1", "seq": 7}, retain=True)
        await consumer.publish("ack/historian", {"epoch": "e1", "seq": 8})
        await until(lambda: consumer.last("acked/historian")["seq"] == 8)
        assert [ack.seq for ack in one.acks] == [1201, 8]
