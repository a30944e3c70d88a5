"""The soak itself: one thing after another goes away and comes back, and at each quiet moment everybody is measured."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from simulators.station import station as devices
from tests.brokers import Mosquitto, free_port, until
from tests.e2e.station import BREAKERS, DEVICES, Gateway, Operator, write_config
from tests.mqtt.support import console
from tests.soak.verdict import Sample

QUIET_S = 1.0
"""So long everything is left alone before it is measured."""
BACK_S = 60.0
BURST = 500
"""Events at once; the outstation's buffer holds twice as many."""

Metrics = dict[tuple[str, str], float]
"""Of the listener: by name and by device or process ("" where there is neither)."""


class Soak:
    """A station that is disturbed. samples: of every process at every quiet moment; done: what was done how often."""

    def __init__(self, folder: Path, gateway: Gateway, broker: Mosquitto, metrics_port: int) -> None:
        self.gateway = gateway
        self.samples: list[Sample] = []
        self.done: Counter[str] = Counter()
        self._folder = folder
        self._broker = broker
        self._port = metrics_port
        self._began = time.monotonic()
        self.burst: Callable[[int], None] = lambda _: None
        """Makes so many events, a millisecond apart."""
        self.disturbances: dict[str, tuple[Callable[[], Awaitable[None]], str]] = {}
        """By name: what is done, and the words of the log that say that it was noticed."""

    async def metrics(self) -> Metrics:
        """What the gateway says of itself now; nothing while it does not answer."""
        try:
            text = await asyncio.to_thread(_get, self._port)
        except OSError:
            return {}
        found: Metrics = {}
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                found[name, labels.get("device") or labels.get("process") or ""] = value
        return found

    async def all_well(self) -> Metrics:
        """Return when every device is up and the broker connected; what the gateway says then."""
        async with asyncio.timeout(BACK_S):
            while True:
                found = await self.metrics()
                up = all(found.get(("gatewayd_device_up", name)) == 1 for name in DEVICES)
                if up and found.get(("gatewayd_mqtt_connected", "")) == 1:
                    return found
                assert self.gateway.process is not None
                assert self.gateway.process.returncode is None, self.gateway.log[-3000:]
                await asyncio.sleep(0.1)

    async def round(self, name: str, quiet_s: float = QUIET_S) -> None:
        """Disturb, wait until all is well, command a breaker, leave it alone for quiet_s, measure."""
        disturb, noticed = self.disturbances[name]
        before = self.gateway.log.count(noticed)
        await disturb()
        times = 2 if name == "broker" else 1  # commands and data have a connection each
        await until(lambda: self.gateway.log.count(noticed) >= before + times, f"{name}: {noticed}", BACK_S)
        self.done[name] += 1
        await self.all_well()
        await self._operate()
        await asyncio.sleep(quiet_s)
        await self.measure()

    async def fill_caches(self, bursts: int) -> None:
        """Events as fast as their times allow, for all that is kept: SQLite's pages, the newest events, texts of times.

        Each has its limit (docs/limits.md), which a quiet station reaches after hours; until then it seems to leak.
        """
        for _ in range(bursts):
            events = await self._events()
            self.burst(BURST)
            await asyncio.sleep(BURST / 1000)
            async with asyncio.timeout(BACK_S):
                while await self._events() < events + BURST:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    async def _events(self) -> float:
        return (await self.metrics()).get(("gatewayd_datapath_events_total", ""), 0.0)

    async def measure(self) -> list[Sample]:
        """A sample of each process, when all is well."""
        found = await self.all_well()
        at_s = time.monotonic() - self._began
        processes = sorted({who for (name, who) in found if name == "gatewayd_process_rss_mib"})
        taken = [
            Sample(
                at_s,
                process.rpartition("-")[0] or process,
                {
                    figure: found["gatewayd_process_" + figure, process]
                    for figure in ("rss_mib", "threads", "descriptors", "tasks")
                    if ("gatewayd_process_" + figure, process) in found
                },
            )
            for process in processes
        ]
        self.samples += taken
        return taken

    async def reload(self) -> None:
        """The meter is polled at another rate: its driver starts anew."""
        path, slow, fast = self.gateway.config, "poll_s = 0.5", "poll_s = 0.4"
        text = path.read_text()
        path.write_text(text.replace(slow, fast) if slow in text else text.replace(fast, slow))
        self.gateway.signal(signal.SIGHUP)

    async def _operate(self) -> None:
        device = DEVICES[sum(self.done.values()) % len(DEVICES)]
        async with console(self._broker.url) as listener:
            operator = Operator(listener)
            for value in (False, True) if device == "MTR3" else ("open", "closed"):
                answer = await operator.sbo(BREAKERS[device], value)
                self.done[f"command {answer['reason']}"] += 1


def _get(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text: bytes = answer.read()
    return text.decode()


@asynccontextmanager
async def soaking(folder: Path) -> AsyncIterator[Soak]:
    """A station with everything that can be disturbed, all well."""
    metrics_port = free_port()
    async with Mosquitto(folder / "broker") as broker, devices() as (_, rtu, bay, meter):
        ports = {"dnp3": rtu.port, "iec61850": bay.port, "modbus": meter.port}
        config = write_config(
            folder, broker.url, ports, lambda text: f'{text}\n[metrics]\nlisten = "127.0.0.1:{metrics_port}"\n'
        )
        gateway = Gateway(folder, config)
        soak = Soak(folder, gateway, broker, metrics_port)

        async def restart_rtu() -> None:
            await rtu.restart(keep_events=True)

        async def restart_bay() -> None:
            await asyncio.to_thread(bay.stop)
            bay.start()

        async def restart_meter() -> None:
            await asyncio.to_thread(meter.stop)
            meter.start()

        soak.burst = rtu.burst
        soak.disturbances = {
            "outstation": (restart_rtu, "device is down"),
            "IED": (restart_bay, "device is down"),
            "meter": (restart_meter, "device is down"),
            "broker": (broker.restart, "connected to the broker"),
            "reload": (soak.reload, "the new configuration is in force"),
        }
        try:
            await gateway.start()
            await soak.measure()
            yield soak
        finally:
            await gateway.kill()
