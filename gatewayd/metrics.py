"""Prometheus metrics on a local listener, only where `[metrics] listen` says so: the counters of `<base>/health`.

    gatewayd_device_up{device="FDR12",protocol="dnp3"} 1
    gatewayd_device_events_total{device="FDR12"} 1234

A scrape is answered from the daemon's own loop, so it also shows whether that still turns.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import structlog
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gatewayd.certificates import Finding
from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.states import State
from gatewayd.points.types import Link

log = structlog.get_logger("metrics")

PATIENCE_S = 3.0
MOST_CLIENTS = 8
"""Connections to the listener at once, each on a thread of its own; the next one is closed at once and counted."""
SLOW_S = 5.0
"""A client that says nothing for so long is left."""
GAUGES = frozenset(
    {
        "waiting_appends", "waiting_jobs", "used_bytes", "limit_bytes", "free_bytes", "backlog", "full", "broken",
        "answers_waiting", "lag_ms", "lag_max_ms", "rss_mib", "max_rss_mib", "threads", "descriptors", "tasks",
        "polled_points", "unknown_points", "unknown_members", "waiting_events", "commit_us_max", "tags_hung",
        "not_on_record", "connected", "synchronised", "est_error_ms", "max_error_ms",
    }
)  # fmt: skip
"""What is a state and no count."""
AT_FIRST_ZERO: Mapping[str, tuple[str, ...]] = {
    "datapath": ("events", "batches", "samples", "gaps", "held", "not_stored", "notes_dropped"),
    "commands": (
        "asked", "selects", "operations", "refusals", "refusals_unrecorded", "repeats", "late", "internal_errors",
        "restart_outcomes",
    ),
}  # fmt: skip
"""Counters that are kept from the first time on only. Prometheus sees an increase only of what was there before."""
NOT_CALLED = frozenset({Link.DISABLED})
"""Devices in such a state are nobody's alarm."""


class LinkNow(NamedTuple):
    """A device's protocol, and how its link is."""

    protocol: str
    link: Link


Snapshot = tuple[Mapping[str, Any], Mapping[str, LinkNow]]
"""The counters of health, and the links by device."""


def families(counters: Mapping[str, Any], links: Mapping[str, LinkNow]) -> Iterator[Metric]:
    """All metrics of one moment. Pure."""
    yield from _links(links)
    for group, found in counters.items():
        match group:
            case "info":
                yield _info(found)
            case "devices":
                yield from _labelled("gatewayd_device", "device", found)
            case "processes":
                yield from _labelled("gatewayd_process", "process", found)
            case "clock_offset_s":
                yield _one("gatewayd_device_clock_offset_s", "Gateway's clock less the device's", "device", found)
            case "certificates":
                yield from _certificates(found)
            case "consumers":
                behind = {name[7:]: value for name, value in found.items() if name.startswith("behind_")}
                yield _one("gatewayd_consumer_behind", "Events it has not acknowledged", "consumer", behind)
                yield _plain("gatewayd_consumers_refused", "refused", found.get("refused", 0))
            case "commands":
                yield from _commands(found)
            case _ if isinstance(found, Mapping):
                yield from _group(group, found)


def _links(links: Mapping[str, LinkNow]) -> Iterator[Metric]:
    up = GaugeMetricFamily("gatewayd_device_up", "The device's link is up", labels=["device", "protocol"])
    state = GaugeMetricFamily("gatewayd_device_link", "1 for the state it is in", labels=["device", "protocol", "link"])
    for device, now in links.items():
        state.add_metric([device, now.protocol, str(now.link)], 1)
        if now.link not in NOT_CALLED:
            up.add_metric([device, now.protocol], float(now.link is Link.UP))
    yield from (up, state)


def _group(group: str, found: Mapping[str, Any]) -> Iterator[Metric]:
    for name, value in {**dict.fromkeys(AT_FIRST_ZERO.get(group, ()), 0), **found}.items():
        if _number(value):
            yield _plain(f"gatewayd_{_word(group)}_{_word(name)}", name, float(value))


def _commands(found: Mapping[str, Any]) -> Iterator[Metric]:
    """What comes by reason, effect or state has one name and a label; the rest as everywhere."""
    left = dict(found)
    for prefix, name, label, values in (
        ("reason_", "answers", "reason", Reason),
        ("outcome_", "outcomes", "effect", Effect),
    ):
        counter = CounterMetricFamily(f"gatewayd_commands_{name}", f"{name} by {label}", labels=[label])
        for value in values:
            counter.add_metric([str(value)], float(left.pop(f"{prefix}{value}", 0)))
        yield counter
    now = GaugeMetricFamily("gatewayd_commands_now", "Points by the state of their command", labels=["state"])
    for state in State:
        if state is not State.IDLE:
            now.add_metric([str(state)], float(left.pop(f"now_{state}", 0)))
    left.pop(f"now_{State.IDLE}", None)
    yield now
    yield from _group("commands", left)


def _info(found: Mapping[str, str]) -> Metric:
    metric = GaugeMetricFamily("gatewayd_info", "Which gateway this is", labels=list(found))
    metric.add_metric(list(found.values()), 1)
    return metric


def _labelled(prefix: str, label: str, found: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    names = dict.fromkeys(name for counts in found.values() for name, value in counts.items() if _number(value))
    for name in names:
        metric = _family(f"{prefix}_{_word(name)}", name, [label])
        for who, counts in found.items():
            if _number(counts.get(name)):
                metric.add_metric([who], float(counts[name]))
        yield metric


def _family(full: str, name: str, labels: list[str]) -> CounterMetricFamily | GaugeMetricFamily:
    kind = GaugeMetricFamily if name in GAUGES else CounterMetricFamily
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


def _certificates(found: Iterable[Finding]) -> Iterator[Metric]:
    labels = ["of", "use", "file"]
    days = GaugeMetricFamily("gatewayd_certificate_days", "Days until its end", labels=labels)
    trouble = GaugeMetricFamily("gatewayd_certificate_trouble", "1: see gatewayd certs", labels=labels)
    worst: dict[tuple[str, str, str], Finding] = {}
    for one in found:  # a file may have several certificates: the first to end counts
        key = (one.of, one.use, one.file)
        worst[key] = min(worst.get(key, one), one, key=lambda each: (not each.trouble, _days(each)))
    for key, one in worst.items():
        trouble.add_metric(list(key), float(bool(one.trouble)))
        if one.days is not None:
            days.add_metric(list(key), float(one.days))
    yield from (days, trouble)


def _days(one: Finding) -> float:
    return float("inf") if one.days is None else one.days


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
    """The listener while it runs.

    port:    the real one where 0 was asked for
    refused: connections over MOST_CLIENTS
    left:    connections that said nothing in time, or broke
    """

    def __init__(self, host: str, port: int, snapshot: Callable[[], Snapshot]) -> None:
        """Listen. Raises OSError."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_FromLoop(snapshot, asyncio.get_running_loop()))
        self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        self._places = threading.BoundedSemaphore(MOST_CLIENTS)
        self.refused = self.left = 0
        self._bound(self._server)
        self.port: int = self._server.server_address[1]
        log.info("metrics are served", host=host, port=self.port)

    def _bound(self, server: Any) -> None:
        """Connections at once, and how long one may be silent: the library has no limit of its own."""
        take, serve, handler = server.process_request, server.process_request_thread, server.RequestHandlerClass

        def taken(request: Any, address: Any) -> None:
            if self._places.acquire(blocking=False):
                take(request, address)
            else:
                self.refused += 1
                server.shutdown_request(request)

        def served(request: Any, address: Any) -> None:
            try:
                serve(request, address)
            finally:
                self._places.release()

        def failed(*_: Any) -> None:
            self.left += 1

        server.process_request, server.process_request_thread, server.handle_error = taken, served, failed
        server.RequestHandlerClass = type("Handler", (handler,), {"timeout": SLOW_S})

    def counters(self) -> dict[str, int]:
        """Plain integers by name."""
        return {"refused": self.refused, "left": self.left}

    async def close(self) -> None:
        """Stop listening."""
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()
        await asyncio.to_thread(self._thread.join)
