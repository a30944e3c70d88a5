"""Retained tags and the audit head, over a real mosquitto."""

from __future__ import annotations

from gatewayd.points.database import Database
from tests.brokers import Mosquitto, until
from tests.mqtt.support import analogs, console, publisher, running

LOCK = b'{"on":"point/F/P0","tags":[{"id":"a1","kind":"personal-lock"}]}'


async def test_tags_and_the_audit_head_are_retained_and_come_again_after_a_reconnect(broker: Mosquitto) -> None:
    one = publisher(broker.url, Database(analogs("F", 1)))
    one.tag("point/F/P0", LOCK)
    one.tag("bay/B1", b"")
    one.tag("bay/+", LOCK)  # nothing a topic may have: never published
    one.audit_head(b'{"n":7,"hash":"00","time":""}')
    async with running(one), console(broker.url) as heard:
        await until(lambda: heard.last("tag/point/F/P0") and heard.last("audit"), "tag and head")
        await broker.kill()  # this one keeps nothing
        await broker.start()
        async with console(broker.url) as late:
            await until(lambda: late.last("tag/point/F/P0"), "the tag again")
            assert late.on("tag/point/F/P0")[-1].payload == LOCK
    async with console(broker.url) as later:
        await until(lambda: later.on("tag/point/F/P0"), "it is stored")
        assert later.on("tag/point/F/P0")[0].retain


async def test_a_tag_that_no_longer_hangs_is_cleared_once_it_is_known_what_does(broker: Mosquitto) -> None:
    async with console(broker.url) as heard:
        for key in ("point/F/P0", "bay/GONE"):
            await heard.publish(f"tag/{key}", {"on": key, "tags": []}, retain=True)
        one = publisher(broker.url, Database(analogs("F", 1)))
        async with running(one):
            await until(lambda: len(one._tags_found) == 2, "what the broker has stored was seen")
            assert heard.on("tag/bay/GONE")[-1].payload != b""  # not known yet: not touched
            one.tag("point/F/P0", LOCK)
            one.tags_known()
            await until(lambda: heard.on("tag/bay/GONE")[-1].payload == b"", "the old one is cleared")
            await until(lambda: heard.on("tag/point/F/P0")[-1].payload == LOCK, "the live one is shown")
