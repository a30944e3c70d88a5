"""Prometheus metrics on a local listener, only where `[metrics] listen` says so: the counters of `<base>/health`.

    gatewayd_device_up{device="FDR12",protocol="dnp3"} 1
    gatewayd_device_events_total{device="FDR12"} 1234

A scrape is answered from the daemon's own loop, so it also shows whether that still turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import structlog
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = structlog.get_logger("metrics")

PATIENCE_S = 3.0
GAUGES = frozenset(
    {
        "waiting_appends", "waiting_jobs", "used_bytes", "limit_bytes", "backlog", "full", "broken", "answers_waiting",
        "lag_ms", "lag_max_ms", "rss_mib", "max_rss_mib", "threads", "polled_points", "unknown_points",
        "unknown_members", "commit_us_max", "selects", "operations", "holds", "tags", "inhibits",
    }
)  # fmt: skip
"""What is a state and no count."""


class LinkNow(NamedTuple):
    """A device's protocol, and whether its link is up."""

    protocol: str
    up: bool


Snapshot = tuple[Mapping[str, Any], Mapping[str, LinkNow]]
"""The counters of health, and the links by device."""


def families(counters: Mapping[str, Any], links: Mapping[str, LinkNow]) -> Iterator[Metric]:
    """All metrics of one moment. Pure."""
    up = GaugeMetricFamily("gatewayd_device_up", "The device's link is up", labels=["device", "protocol"])
    for device, link in links.items():
        up.add_metric([device, link.protocol], float(link.up))
    yield up
    for group, found in counters.items():
        if group == "devices":
            yield from _labelled("gatewayd_device", "device", found)
        elif group == "processes":
            yield from _labelled("gatewayd_process", "process", found)
        elif group == "clock_offset_s":
            yield _one("gatewayd_device_clock_offset_s", "Gateway's clock less the device's", "device", found)
        elif group == "certificates":
            yield _certificates(found)
        elif isinstance(found, Mapping):
            for name, value in found.items():
                if _number(value):
                    yield _plain(f"gatewayd_{_word(group)}_{_word(name)}", name, float(value))


def _labelled(prefix: str, label: str, found: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    names = dict.fromkeys(name for counts in found.values() for name, value in counts.items() if _number(value))
    for name in names:
        metric = _family(f"{prefix}_{_word(name)}", name, [label])
        for who, counts in found.items():
            if _number(counts.get(name)):
                metric.add_metric([who], float(counts[name]))
        yield metric


def _family(full: str, name: str, labels: list[str]) -> CounterMetricFamily | GaugeMetricFamily:
    kind = GaugeMetricFamily if name in GAUGES or name.startswith("behind_") else CounterMetricFamily
    return kind(full, name.replace("_", " "), labels=labels)


def _plain(full: str, name: str, value: float) -> Metric:
    metric = _family(full, name, [])
    metric.add_metric([], value)
    return metric


def _one(full: str, text: str, label: str, found: Mapping[str, Any]) -> Metric:
    metric = GaugeMetricFamily(full, text, labels=[label])
    for who, value in found.items():
        metric.add_metric([who], float(value))
    return metric


def _certificates(found: Iterable[Any]) -> Metric:
    metric = GaugeMetricFamily("gatewayd_certificate_days", "Days until its end", labels=["of", "use", "file"])
    for one in found:
        if one.days is not None:
            metric.add_metric([one.of, one.use, one.file], float(one.days))
    return metric


def _number(value: object) -> bool:
    return isinstance(value, (int, float))


def _word(name: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in name)


class _FromLoop(Collector):
    """Asks the loop for a snapshot; called in the listener's thread."""

    def __init__(self, snapshot: Callable[[], Snapshot], loop: asyncio.AbstractEventLoop) -> None:
        self._snapshot = snapshot
        self._loop = loop

    def collect(self) -> Iterator[Metric]:
        async def ask() -> Snapshot:
            return self._snapshot()

        asked = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        yield from families(*asked.result(PATIENCE_S))

    def describe(self) -> list[Metric]:
        return []  # nothing is asked before the first scrape


class Listener:
    """The listener while it runs; `port` is the real one where 0 was asked for."""

    def __init__(self, host: str, port: int, snapshot: Callable[[], Snapshot]) -> None:
        """Listen. Raises OSError."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_FromLoop(snapshot, asyncio.get_running_loop()))
        self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        self.port: int = self._server.server_address[1]
        log.info("metrics are served", host=host, port=self.port)

    async def close(self) -> None:
        """Stop listening."""
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()
        await asyncio.to_thread(self._thread.join)
