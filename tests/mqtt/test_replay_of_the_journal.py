"""Replays and acknowledgements of nonsense, with the journal on disk behind them: each is answered, nothing is lost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from gatewayd.mqtt import contract
from gatewayd.mqtt.contract import ReplayRequest, RequestTopic
from gatewayd.points.database import Database
from gatewayd.store.journal import Journal
from tests.brokers import Mosquitto, until
from tests.mqtt.support import BASE, console, publisher, running
from tests.store.support import event, opened

COUNT = 1000
HUGE = 1 << 62


async def trimmed(folder: Path) -> Journal:
    """Events 1 to 1000, of which the oldest are gone, all handed over."""
    now = [10**18]
    journal = opened(folder, keep_s=10.0, now_ns=lambda: now[0])
    await journal.append([event(n) for n in range(1, 401)])
    now[0] += 60 * 10**9
    journal.mark_handed_over(400)
    await journal.append([event(n) for n in range(401, COUNT + 1)])
    journal.mark_handed_over(COUNT)
    await until(lambda: journal.oldest == 401, "trimmed by age")
    return journal


@pytest.mark.parametrize(
    ("first", "last", "epoch", "reason", "missing", "sent"),
    [
        (1, 400, "", "trimmed", [[1, 400]], []),
        (1, HUGE, "", "trimmed", [[1, 400], [1001, HUGE]], range(401, 1001)),
        (0, 402, "", "trimmed", [[1, 400]], [401, 402]),
        (1000, 1000, "", "ok", [], [1000]),
        (1001, 1001, "", "beyond-newest", [[1001, 1001]], []),
        (HUGE, HUGE, "", "beyond-newest", [[HUGE, HUGE]], []),
        (999, 1002, "", "beyond-newest", [[1001, 1002]], [999, 1000]),
        (1, 5, "another", "unknown-epoch", [[1, 5]], []),
        (401, 401, 7, "unknown-epoch", [[401, 401]], []),
    ],
)
async def test_a_replay_says_what_it_sent_and_what_is_missing(
    tmp_path: Path, first: int, last: int, epoch: str | int, reason: str, missing: list[list[int]], sent: range
) -> None:
    journal = await trimmed(tmp_path / "state")
    async with Mosquitto(tmp_path / "broker") as broker, console(broker.url, f"{BASE}/replayed/#") as one:
        sender = publisher(broker.url, Database([]), journal)  # type: ignore[arg-type]
        payload = json.dumps({"epoch": epoch or journal.epoch, "from": first, "to": last}).encode()
        request = contract.decode_replay(RequestTopic("replay", "hist", ""), payload)
        assert request.bad == ""
        async with running(sender):
            sender.replay(request)
            await until(lambda: (one.last("replayed/hist") or {}).get("done"), "the end")
        *messages, done = [m.body for m in one.on("replayed/hist")]
        assert [e["seq"] for m in messages for e in m["events"]] == list(sent)
        assert (done["reason"], done["missing"]) == (reason, missing)
        assert journal.handed_over == COUNT
    await journal.close()


async def test_a_backlog_and_a_replay_go_out_no_faster_than_they_may(tmp_path: Path) -> None:
    journal = opened(tmp_path / "state")
    await journal.append([event(n) for n in range(1, 4001)])
    async with Mosquitto(tmp_path / "broker") as broker, console(broker.url) as one:
        sender = publisher(broker.url, Database([]), journal, backlog_rate=2000, replay_rate=4000)  # type: ignore[arg-type]
        began = time.monotonic()
        async with running(sender):
            await until(lambda: journal.handed_over == 4000, "the backlog")
            assert (
                time.monotonic() - began >= 0.7
            )  # 2000 at once, each message is paid for before the next: 1500 of 2000
            began = time.monotonic()
            sender.replay(ReplayRequest("hist", journal.epoch, 1, 4000))
            await until(lambda: (one.last("replayed/hist") or {}).get("done"), "the end")
            assert time.monotonic() - began >= 0.7  # 500 at once, 3500 in 0.87 s
        assert [e["seq"] for e in one.events()] == list(range(1, 4001))
    await journal.close()


NONSENSE = [
    b"", b"nonsense", b"[]", b"null", b"{}", b'{"epoch":"e"}',
    b'{"epoch":"e","from":1.5,"to":2,"seq":1.5}', b'{"epoch":"e","from":"1","to":2,"seq":"1"}',
    b'{"epoch":"e","from":true,"to":2,"seq":true}', b'{"epoch":"e","from":null,"to":2,"seq":null}',
    b'{"epoch":"e","from":-1,"to":2,"seq":-1}', b'{"epoch":"e","from":1e999,"to":1e999,"seq":1e999}',
    b'{"epoch":"e","from":1,"to":%d,"seq":%d}' % (1 << 63, 1 << 63),
    b'{"epoch":"e","from":1,"to":' + b"9" * 3000 + b',"seq":' + b"9" * 900 + b"}",
    b'{"epoch":["e"],"from":1,"to":2,"seq":1}', b'{"epoch":true,"from":1,"to":2,"seq":1}',
    b'{"epoch":"e","from":{"a":[[[[[[[[[[1]]]]]]]]]]},"to":2,"seq":[1]}',
]  # fmt: skip


@pytest.mark.parametrize("payload", NONSENSE)
def test_nonsense_is_not_understood_and_says_why(payload: bytes) -> None:
    replay = contract.decode_replay(RequestTopic("replay", "hist", ""), payload)
    ack = contract.decode_ack(RequestTopic("ack", "hist", ""), payload)
    assert replay.bad
    assert ack.bad
    assert 0 <= replay.first <= HUGE
    assert 0 <= ack.seq <= HUGE


@pytest.mark.parametrize("name", ["a b", "", "x" * 65, "ä", "a/b", "+", "$SYS"])
def test_a_name_that_cannot_stand_in_a_topic_is_refused(name: str) -> None:
    assert contract.decode_replay(RequestTopic("replay", name, ""), b'{"epoch":"e","from":1,"to":2}').bad
    assert contract.decode_ack(RequestTopic("ack", name, ""), b'{"epoch":"e","seq":1}').bad
