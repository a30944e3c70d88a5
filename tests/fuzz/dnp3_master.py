"""A hostile outstation against the real DNP3 worker, over a real socket: what Project Robus did to masters, and more.

    run(seconds, seed)       python -m tests.fuzz.dnp3_master --seconds 60

In one worker process live a good outstation and, one after the other, hostile ones: they say what is in corpus/dnp3/,
damaged copies of it, and octets of no form, as answers, unasked and as bare frames. All the time
* the good one's events arrive, each once, in order;
* nobody is sent a control but the hostile one that was commanded, each function code once for each command, and "done"
  is never said of an OPERATE that did not arrive;
* the worker lives, or is restarted and the good one goes on;
* its memory stays where it is;
and afterwards an outstation at a hostile one's place that behaves comes up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from py1815 import link

from gatewayd.control.types import Control, Step, Verdict
from gatewayd.points.types import Batch, ControlMode, Cursor, Kind, Link, PointSpec
from gatewayd.protocols.child import Child
from gatewayd.protocols.device import Device
from gatewayd.protocols.fleet import Fleet
from tests.brokers import until
from tests.protocols.dnp3.outstation import Answer, Function, Outstation, Request, indexed, ranged, time48

CORPUS = Path(__file__).parent / "corpus" / "dnp3"
GOOD, GOOD_ROW, COMMANDED = "GOOD", 0, 99
ROUND_S = 1.2
"""How long one hostile outstation lives."""
LEAST_ROUNDS = 2
"""However short the time: one outstation hostile once it is up, one from the beginning, and the corpus said."""
MORE_MEMORY_MIB = 48
"""What a worker may have grown by: allocators keep some, a leak does not stop."""
CONTROLS = (Function.SELECT, Function.OPERATE, Function.DIRECT_OPERATE, Function.DIRECT_OPERATE_NR)
TYPES = {
    "BI": Kind.BINARY, "DBI": Kind.DOUBLE, "AI": Kind.ANALOG, "CT": Kind.COUNTER,
    "FC": Kind.COUNTER, "BO": Kind.BINARY, "AO": Kind.ANALOG, "OS": Kind.STRING,
}  # fmt: skip
STATIC = ranged(1, 2, 0, [b"\x81"])


# ---- what it says


def corpus() -> list[tuple[str, bytes]]:
    """Every line of the corpus: how it is said, and the octets. Lines are explained in the files."""
    found: list[tuple[str, bytes]] = []
    for path in sorted(CORPUS.glob("*.txt")):
        for line in path.read_text().splitlines():
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            times = 1
            if words[0] == "repeat":
                times, words = int(words[1]), words[2:]
            found += [_case(words)] * times
    return found


def _case(words: list[str]) -> tuple[str, bytes]:
    how, rest = words[0], words[1:]
    if how == "frame":
        control, destination, source = (int(word, 16) for word in rest[:3])
        return "raw", link.build(control, destination, source, bytes.fromhex("".join(rest[3:])))
    if how == "many":
        return how, int(rest[0]).to_bytes(4, "big")
    return how, bytes.fromhex("".join(rest))


def damaged(rng: random.Random, octets: bytes) -> bytes:
    """A copy with a few octets changed, cut, doubled or put in."""
    data = bytearray(octets)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0 if data:
                data[at % len(data)] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
            case 1:
                del data[at : at + rng.randrange(1, 5)]
            case 2:
                data[at:at] = rng.randbytes(rng.randrange(1, 5))
            case _:
                data += data[at:]
    return bytes(data[:4000])


class Hostile(Outstation):
    """An outstation that answers what it must to stay in touch, and in between says `cases`."""

    def __init__(self, rng: random.Random, cases: Iterator[tuple[str, bytes]]) -> None:
        super().__init__(static=STATIC)
        self.rng = rng
        self.cases = cases
        self.said = 0
        self.answers[Function.READ] = self._answer
        self._as_answers: list[bytes] = []

    def _answer(self, request: Request) -> Answer | tuple[Answer, ...]:
        """Rubbish first where there is some, half of the time instead of what was asked for."""
        true = self.read(request)
        rubbish = [Answer(self._as_answers.pop(), confirm=bool(self.rng.randrange(2)))] if self._as_answers else []
        if rubbish and self.rng.randrange(2):
            return tuple(rubbish)
        return (*rubbish, *([true] if isinstance(true, Answer) else true or ()))  # type: ignore[misc]

    async def attack(self) -> None:
        """Say one after the other, as fast as they are taken."""
        for how, octets in self.cases:
            self.said += 1
            self.say(how, octets)
            await asyncio.sleep(0 if self.said % 8 else 0.002)

    def say(self, how: str, octets: bytes) -> None:
        match how:
            case "raw":
                self.send_raw(octets)
            case "segment":
                self.send_raw(self.frame(octets[:250]))
            case "many":  # segments in order that never end
                for number in range(int.from_bytes(octets[:4], "big") % 5000):
                    self.send_raw(self.frame(bytes((number + 1 & 0x3F,)) + b"\xff" * 200))
            case "fragment":
                self.send_fragment(octets or b"\0")
            case "response":
                self._as_answers.append(octets)
            case "unsolicited":
                self.unsolicited(octets, confirm=bool(self.rng.randrange(2)))
            case "both":
                self._as_answers.append(octets)
                self.unsolicited(octets)
        del self._as_answers[:-4]


def cases(rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """The corpus as it is, then without end damaged copies and octets of no form."""
    known = corpus()
    rng.shuffle(known)
    yield from known
    known = [case for case in dict.fromkeys(known) if case[0] != "many"]
    while True:
        how, octets = rng.choice(known)
        if rng.randrange(5):
            yield how, damaged(rng, octets) if rng.randrange(4) else octets
        else:
            yield rng.choice(("raw", "segment", "fragment", "unsolicited")), rng.randbytes(rng.randrange(1, 200))


# ---- against whom


class Core:
    """What the worker tells, of the good outstation; of the hostile ones the state of their links."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self.counted: list[int] = []
        self.gaps: list[str] = []
        self.hostile_values = 0
        self.replies: Counter[Verdict] = Counter()
        self._cursors: dict[str, dict[str, Cursor]] = {}

    def state(self, batch: Batch) -> None:
        self.hostile_values += batch.device != GOOD

    def take(self, batch: Batch, cursor: Cursor | None) -> None:
        if cursor is not None:
            self._cursors.setdefault(batch.device, {})[cursor.source] = cursor
        if batch.device == GOOD and batch.reported:
            self.counted += [int(sample.value or 0) for sample in batch.samples]
        elif batch.device != GOOD:
            self.hostile_values += len(batch.samples)

    async def events(self, batch: Batch, cursor: Cursor | None = None) -> None:
        self.take(batch, cursor)

    def device(self, name: str, link: Link, why: str = "") -> None:
        del why
        self.links[name] = link

    def gap(self, device: str, cause: str) -> None:
        if device == GOOD:
            self.gaps.append(cause)

    def progress(self, command_id: str, step: Step) -> None:
        del command_id, step

    async def cursors(self, name: str) -> list[Cursor]:
        return list(self._cursors.get(name, {}).values())


def device(name: str, row: int, port: int, **options: object) -> Device:
    types = {"CT": Kind.COUNTER} if name == GOOD else TYPES
    points = [
        PointSpec(row=row + n, name=f"{name}/{one}", kind=kind, device=name, address=f"{one}:0", event=True)
        for n, (one, kind) in enumerate(types.items())
    ]
    if name != GOOD:
        breaker = {"control": ControlMode.SBO, "command": "CROB:2 trip-close"}
        points.append(PointSpec(row=COMMANDED, name=f"{name}/CB", kind=Kind.DOUBLE, device=name, address="", **breaker))
    given = {"event_poll_s": 0.1, "response_timeout_s": 1.0, **options}
    return Device(name=name, protocol="dnp3", host="127.0.0.1", port=port, points=tuple(points), options=given)


def memory_mib(pid: int) -> float:
    """Resident memory; of a process that is gone 0."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


@contextlib.asynccontextmanager
async def counting(rtu: Outstation) -> AsyncIterator[list[int]]:
    """Have the good outstation make an event every 20 ms; the list grows with what it made."""
    made: list[int] = []

    async def make() -> None:
        for number in itertools.count(1):
            made.append(number)
            objects = struct.pack("<BI", 1, number) + time48(time.time_ns() // 1_000_000)
            rtu.events.append(indexed(22, 5, [(0, objects)]))
            await asyncio.sleep(0.02)

    task = asyncio.create_task(make())
    try:
        yield made
    finally:
        task.cancel()


# ---- the whole


async def besiege(seconds: float, seed: int) -> dict[str, int]:
    """See the module. What was said, and what became of it. Raises AssertionError."""
    rng = random.Random(seed)
    core = Core()
    fleet = Fleet(core, core.cursors, make_host=lambda name, core: Child(name, core, log_level="error"))
    good = Outstation(static=ranged(20, 1, 0, [struct.pack("<BI", 1, 0)]))
    said = rounds = 0
    end = time.monotonic() + seconds
    stream = cases(rng)
    async with good, counting(good) as made:
        friend = device(GOOD, GOOD_ROW, good.port)
        try:
            await fleet.configure([friend])
            await until(lambda: core.links.get(GOOD) is Link.UP, "the good outstation is up")
            before = memory_mib(next(iter(fleet.workers().values())))
            while time.monotonic() < end or rounds < LEAST_ROUNDS or said <= len(corpus()):
                rounds += 1
                said += await _round(
                    fleet, core, friend, Hostile(rng, stream), f"HOSTILE{rounds}", patient=bool(rounds % 2)
                )
                workers = [pid for pid in fleet.workers().values() if pid]
                assert all(memory_mib(pid) < before + MORE_MEMORY_MIB for pid in workers), "a worker has grown"
            assert [request for request in good.requests if request.function in CONTROLS] == []
            at_last = made[-1]
            await until(lambda: core.counted and core.counted[-1] >= at_last, "all events of the good outstation")
        finally:
            await fleet.close()
    assert core.counted == list(range(1, core.counted[-1] + 1)), "an event was lost, doubled or out of order"
    assert core.gaps == []
    return {
        "said": said, "rounds": rounds, "values_taken": core.hostile_values, "good_events": len(core.counted),
        "worker_restarts": fleet.restarts,
        **{f"commands_{verdict.name.lower()}": count for verdict, count in core.replies.items()},
    }  # fmt: skip


async def _round(fleet: Fleet, core: Core, friend: Device, hostile: Hostile, name: str, *, patient: bool) -> int:
    """One hostile outstation: from its connection on, or (patient) behaving until it is up."""
    async with hostile:
        foe = device(name, 1, hostile.port)
        await fleet.configure([friend, foe])
        await until(lambda: hostile.connected, f"{name} is connected")
        if patient:
            await until(lambda: core.links.get(name) is Link.UP, f"{name} is up, before it turns hostile")
        attack = asyncio.create_task(hostile.attack())
        commands = asyncio.create_task(_command(fleet, core, name, hostile))
        await asyncio.wait({attack, commands}, timeout=ROUND_S, return_when=asyncio.FIRST_COMPLETED)
        ended = attack.done()
        attack.cancel()
        await asyncio.gather(attack, return_exceptions=True)
        assert not ended, "the attack ended by itself"
        await commands
        # whoever behaves again is taken up again: a new device at the same place, for the pauses of the old one
        hostile.answers.clear()
        await fleet.configure([friend, device(f"{name}-MENDED", 1, hostile.port)])
        await until(lambda: core.links.get(f"{name}-MENDED") is Link.UP, f"{name} is up once it behaves", 20)
        await fleet.configure([friend])
    return hostile.said


async def _command(fleet: Fleet, core: Core, name: str, hostile: Hostile) -> None:
    """Command the hostile outstation while it raves: whatever it answers, nothing goes out twice."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + ROUND_S
    for number in itertools.count(1):
        before = len(hostile.requests)
        in_a_second = time.monotonic_ns() + 1_000_000_000
        control = Control(
            id=f"{name}-{number}", point=COMMANDED, value=True, operator="fuzz", sbo=bool(number % 2),
            not_after_ns=in_a_second,
        )  # fmt: skip
        reply = await fleet.ask("operate", name, control)
        sent = [request.function for request in hostile.requests[before:] if request.function in CONTROLS]
        allowed = [Function.SELECT, Function.OPERATE] if control.sbo else [Function.DIRECT_OPERATE]
        assert sent == allowed[: len(sent)], f"more went out than was commanded: {sent}"
        core.replies[reply.verdict] += 1
        assert reply.verdict is not Verdict.DONE or sent == allowed, "done, without an operate that arrived"
        if loop.time() > until_s:
            return
        await asyncio.sleep(0.05)


def run(seconds: float, seed: int) -> None:
    """Besiege a worker for so long; prints what was done. Raises AssertionError for what it could not bear."""
    found = asyncio.run(besiege(seconds, seed))
    print(f"dnp3_master seed {seed}: " + ", ".join(f"{count} {name}" for name, count in found.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.dnp3_master")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    given = parser.parse_args()
    run(given.seconds, given.seed)
