"""A gateway from the pages of docs/mqtt.md alone: it stores what a gateway stores and answers requests by a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiomqtt
from paho.mqtt.subscribeoptions import SubscribeOptions

BASE = "gw/test"
NOW = "2026-11-24T01:02:03.004Z"

CATALOG = {
    "FDR12": [
        {"point": "FDR12/CB/POS", "kind": "double", "control": "sbo", "description": "Circuit breaker"},
        {"point": "FDR12/I", "kind": "analog", "unit": "A"},
        {"point": "FDR12/SET/P", "kind": "analog", "unit": "kW", "control": "direct", "min": 0, "max": 100},
        {"point": "FDR12/LOCAL", "kind": "binary", "states": {"0": "remote", "1": "local"}},
    ],
    "MTR3": [{"point": "MTR3/WH", "kind": "counter", "unit": "Wh"}],
}
VALUES = {"FDR12/CB/POS": "closed", "FDR12/I": 41.5, "FDR12/SET/P": 50.0, "FDR12/LOCAL": False, "MTR3/WH": 123456789}


def record(point: str, value: object, **more: object) -> dict[str, object]:
    return {"point": point, "value": value, "quality": "good", "t": NOW, "t_src": "device", **more}


class ScriptedGateway:
    """heard: every request as (verb, body, retained). on_request decides what is answered."""

    def __init__(self, client: aiomqtt.Client, base: str) -> None:
        self._client = client
        self.base = base
        self.heard: list[tuple[str, dict[str, Any], bool]] = []
        self.on_request: Callable[[str, str, dict[str, Any]], Awaitable[None]] = self.agree

    async def put(self, topic: str, body: object, *, retain: bool = True) -> None:
        await self._client.publish(f"{self.base}/{topic}", json.dumps(body), qos=1, retain=retain)

    async def status(self, state: str = "online", boot: str = "b1") -> None:
        await self.put(
            "status",
            {"state": state, "boot": boot, "epoch": "e", "oldest": 1, "newest": 7, "version": "0.1", "time": NOW,
             "clock": {"synchronised": True}},
        )  # fmt: skip

    async def link(self, device: str, link: str, cause: str = "", protocol: str = "dnp3") -> None:
        await self.put(f"device/{device}", {"link": link, "since": NOW, "cause": cause, "protocol": protocol})

    async def station(self) -> None:
        await self.status()
        for device, entries in CATALOG.items():
            await self.link(device, "up")
            await self.put(
                f"catalog/{device}", {"device": device, "protocol": "dnp3", "part": 0, "parts": 1, "points": entries}
            )
            records = [record(entry["point"], VALUES[entry["point"]]) for entry in entries]  # type: ignore[index]
            await self.put(f"snapshot/{device}/0", {"part": 0, "parts": 1, "points": records})

    async def answer(self, operator: str, body: dict[str, Any], stage: str, result: str, **more: object) -> None:
        await self.put(
            f"reply/{operator}",
            {"tx": body["tx"], "point": body.get("point", ""), "stage": stage, "result": result, "reason": "ok",
             "effect": "none", "duplicate": False, **more},
            retain=False,
        )  # fmt: skip

    async def agree(self, operator: str, verb: str, body: dict[str, Any]) -> None:
        """Everything is accepted and proved."""
        if verb == "select":
            await self.answer(operator, body, verb, "selected", select_id="5e1ec7", valid_for_s=30.0)
        elif verb == "cancel":
            await self.answer(operator, body, verb, "done")
        else:
            await self.answer(operator, body, verb, "accepted", effect="possible")
            await self.put(
                "state/FDR12", {"t_recv": NOW, "points": [record(body["point"], body["value"])]}, retain=False
            )
            await self.answer(operator, body, verb, "done", effect="confirmed")

    async def serve(self) -> None:
        with contextlib.suppress(aiomqtt.MqttError):
            async for message in self._client.messages:
                _, operator, verb = message.topic.value.rsplit("/", 2)
                assert isinstance(message.payload, bytes)
                body = json.loads(message.payload)
                self.heard.append((verb, body, bool(message.retain)))
                await self.on_request(operator, verb, body)

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _, _ in self.heard]


@contextlib.asynccontextmanager
async def scripted_gateway(url: str, base: str = BASE, *, listens: bool = True) -> AsyncIterator[ScriptedGateway]:
    host, port = url.removeprefix("mqtt://").split(":")
    async with aiomqtt.Client(host, int(port), protocol=aiomqtt.ProtocolVersion.V5) as client:
        gateway = ScriptedGateway(client, base)
        if listens:
            await client.subscribe(f"{base}/cmd/+/+", options=SubscribeOptions(qos=1, retainAsPublished=True))
        serving = asyncio.create_task(gateway.serve())
        await gateway.station()
        try:
            yield gateway
        finally:
            serving.cancel()
            await asyncio.wait({serving})
