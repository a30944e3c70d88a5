"""A simulated revenue meter with a breaker behind it: Modbus TCP by pyModbusTCP, a stack that is not the gateway's.

    python -m simulators.modbus_meter --port 1502 --seed 1

| registers | |
| --- | --- |
| IR:0 2 4 6 8 10 f32 | voltage V, current A, active power kW, reactive power kvar, power factor, frequency Hz |
| IR:30 IR:34 u64 | energy imported and exported, Wh |
| DI:0, CO:0 | breaker closed; breaker command |
| HR:5 | alarm word; bit 3 is "a phase is missing" |
| HR:10, HR:120 | tariff (1 day, 2 night), demand period in minutes |
| HR:40 str8 | serial number |

In tests:

    async with ModbusMeter() as meter:
        meter.refuse[5, 0] = 6          # exception of a function at an address, or of a function: meter.refuse[5]
        ...
        assert [(write.function, write.values) for write in meter.writes] == [(5, [1])]
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Self

from pyModbusTCP.server import DataBank, ModbusServer

from simulators import alone
from simulators.model import CLOSED, Feeder

STEP_S = 0.1
READS = {1: "CO", 2: "DI", 3: "HR", 4: "IR"}
WRITES = (5, 6, 15, 16)
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS = 1, 2
PHASE_MISSING = 1 << 3
SERIAL_NUMBER = b"SN007431"


@dataclass(frozen=True)
class Write:
    """One write as it came in, also one that was refused. at: CLOCK_MONOTONIC seconds."""

    function: int
    address: int
    values: list[int]
    at: float


class ModbusMeter:
    """The meter. Its values are those of the feeder at the moment of each request.

    refuse:  exception codes by function, or by (function, first address)
    holes:   (table, address) that are not there: reading over one is exception 2
    delay_s: before each answer; slow: the same for single functions
    silent:  functions that are carried out and not answered
    writes:  every write in order; requests: every request as (function, address, count)
    """

    def __init__(self, feeder: Feeder | None = None, port: int = 0, *, host: str = "127.0.0.1", seed: int = 1) -> None:
        self.feeder = feeder if feeder is not None else Feeder(seed)
        self._owns_feeder = feeder is None
        self._host, self._port = host, port
        self.bank = DataBank()
        self.refuse: dict[int | tuple[int, int], int] = {}
        self.holes: set[tuple[str, int]] = set()
        self.delay_s = 0.0
        self.slow: dict[int, float] = {}
        self.silent: set[int] = set()
        self.writes: list[Write] = []
        self.requests: list[tuple[int, int, int]] = []
        self._server: _Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stepping: asyncio.Task[None] | None = None
        self.bank.set_holding_registers(10, [1])
        self.bank.set_holding_registers(40, list(struct.unpack(">4H", SERIAL_NUMBER)))
        self.bank.set_holding_registers(120, [15])
        self._show()

    # life
    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self.start()
        if self._owns_feeder:
            self._stepping = asyncio.create_task(self._step(), name="meter")
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._stepping is not None:
            self._stepping.cancel()
            await asyncio.gather(self._stepping, return_exceptions=True)
        await asyncio.to_thread(self.stop)

    def start(self) -> None:
        """Listen; after a stop on the same port again, with the registers as they were."""
        server = _Server(self, self._host, self._port)
        server.start()
        self._port = server.actual_port
        self._server = server

    def stop(self) -> None:
        """Close the port and every connection."""
        server, self._server = self._server, None
        if server is not None:
            server.end()

    def kill(self) -> None:
        """Close every connection, as a lost network does; the port stays open."""
        assert self._server is not None
        self._server.close_connections()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def connections(self) -> int:
        """Clients that are connected now."""
        return len(self._server.services) if self._server else 0

    async def _step(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            self.feeder.step(STEP_S)

    # values
    def _show(self) -> None:
        """The feeder's present state into the registers."""
        plant = self.feeder
        measured = (
            plant.voltage_kv * 1000,
            plant.current_a,
            plant.power_kw,
            plant.reactive_kvar,
            plant.power_factor,
            plant.frequency_hz,
        )
        self.bank.set_input_registers(0, _registers(">6f", *measured))
        self.bank.set_input_registers(30, _registers(">Q", int(plant.energy_wh)))
        self.bank.set_discrete_inputs(0, [plant.breaker == CLOSED])
        self.bank.set_holding_registers(5, [0 if plant.live else PHASE_MISSING])

    # requests, on the server's threads
    def serve(self, session: Any, engine: Any) -> bool:
        """Answer one request; False where nothing is to be sent."""
        raw = session.request.pdu.raw
        function, address, count = struct.unpack_from(">BHH", raw.ljust(5, b"\0"))
        self.requests.append((function, address, count))
        if function in WRITES:
            self.writes.append(Write(function, address, _values(raw), time.monotonic()))
        if delay := self.slow.get(function, self.delay_s):
            time.sleep(delay)
        refusal = self.refuse.get((function, address), self.refuse.get(function, 0))
        if self._hole(function, address, count):
            refusal = ILLEGAL_ADDRESS
        if function in (5, 15) and address == 0 and not refusal:
            refusal = self._breaker(closed=bool(_values(raw)[0]))
        if refusal:
            session.response.pdu.build_except(function, refusal)
        else:
            self._show()
            engine(session)
        return function not in self.silent

    def _hole(self, function: int, address: int, count: int) -> bool:
        table = READS.get(function)
        return any(table == where and address <= at < address + count for where, at in self.holes)

    def _breaker(self, *, closed: bool) -> int:
        """Command the breaker; an exception where it is not to be commanded."""
        if self.feeder.local or (closed and self.feeder.lockout):
            return ILLEGAL_FUNCTION  # also for "in the wrong state to process a request of this type"
        command = self.feeder.command_breaker
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: command(closed=closed))
        else:
            command(closed=closed)
        return 0


class _Service(ModbusServer.ModbusService):  # type: ignore[misc]  # no types
    """One connection, known to its server so that it can be closed."""

    def setup(self) -> None:
        super().setup()
        self.owner: _Server = self.server.engine.__self__
        self.thread = threading.current_thread()
        self.owner.services.add(self)

    def finish(self) -> None:
        self.owner.services.discard(self)
        self.request.close()

    def _send_all(self, data: bytes) -> bool:
        return bool(super()._send_all(data)) if self.owner.answers.pop(threading.get_ident(), True) else True


class _Server(ModbusServer):  # type: ignore[misc]  # no types
    """pyModbusTCP's server with hooks before and behind its engine."""

    ModbusService = _Service

    def __init__(self, meter: ModbusMeter, host: str, port: int) -> None:
        super().__init__(host, port, no_block=True, data_bank=meter.bank)
        self.services: set[_Service] = set()
        self.answers: dict[int, bool] = {}
        self._meter = meter

    @property
    def actual_port(self) -> int:
        return int(self._service.server_address[1])

    def _engine(self, session: Any) -> None:
        self.answers[threading.get_ident()] = self._meter.serve(session, super()._engine)

    def _serve(self) -> None:
        self._evt_running.set()
        try:
            self._service.serve_forever(poll_interval=0.02)  # a stop waits for it
        finally:
            self._evt_running.clear()

    def close_connections(self) -> None:
        for service in list(self.services):
            with contextlib.suppress(OSError):
                service.request.shutdown(2)

    def end(self) -> None:
        self._service.shutdown()
        self._service.server_close()
        threads = [service.thread for service in list(self.services)]
        self.close_connections()
        for thread in (*threads, self._serve_th):
            thread.join(5)


def _registers(form: str, *values: float) -> list[int]:
    octets = struct.pack(form, *values)
    return list(struct.unpack(f">{len(octets) // 2}H", octets))


def _values(raw: bytes) -> list[int]:
    """What a write carries: coils as 0 and 1."""
    function, _, second = struct.unpack_from(">BHH", raw.ljust(5, b"\0"))
    if function == 5:
        return [int(second == 0xFF00)]
    if function == 6:
        return [int(second)]
    data = raw[6:]
    if function == 15:
        return [data[at // 8] >> at % 8 & 1 for at in range(min(second, 8 * len(data)))]
    return list(struct.unpack(f">{len(data) // 2}H", data[: len(data) // 2 * 2]))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    return alone.run(arguments, "modbus_meter", "MTR3 (Modbus TCP)", ModbusMeter, port=1502)


if __name__ == "__main__":
    sys.exit(main())
