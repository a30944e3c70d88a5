"""kill -9 of the real daemon at every fail point of the command path: F1 to F4, F9, F10.

The simulator counts: never more than one operate for a request. After the restart every request that was on record
has exactly one outcome within 5 s, and nothing is sent again. GATEWAYD_LONG=1 (`make prove`) takes every point with
every protocol; the short form takes each of both at least once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gatewayd import failpoint
from gatewayd.store import audit, inspect, schema
from tests.brokers import until
from tests.cases65.room import Operator, Room
from tests.store.test_recovery import mounted

pytestmark = pytest.mark.asyncio(loop_scope="module")
LONG = bool(os.environ.get("GATEWAYD_LONG"))
WITHIN_S, WITHIN_BUSY_S = 5.0, 30.0
"""From the start of the process, Python's own included; the second one where the machine has other things to do."""
SELECTED, INTENT, WRITTEN, DECIDED, TOLD = (
    "control-after-select", "control-after-intent", "control-after-write", "control-before-outcome",
    "control-after-outcome",
)  # fmt: skip
COMMAND_PATH = (SELECTED, INTENT, WRITTEN, DECIDED, TOLD)
REASONS = {SELECTED: "aborted-restart", TOLD: "ok"}


class Output(NamedTuple):
    device: str
    point: str
    value: Any
    operate: str
    at_rest: Any


OUTPUTS = {
    "dnp3": Output("FDR12", "FDR12/CB/POS", "open", "OPERATE CROB:2 129", "closed"),
    "iec61850": Output("BAY1", "BAY1/CB/POS", "open", "Oper CSWI1.Pos", "closed"),
    "modbus": Output("MTR3", "MTR3/CB/POS", "open", "5 0 [0]", True),
}
ALL = [(point, protocol) for point in COMMAND_PATH for protocol in OUTPUTS]
SHORT = [(INTENT, "dnp3"), (WRITTEN, "iec61850"), (DECIDED, "modbus")]


class Asked(NamedTuple):
    """What was asked before the kill. operate: "" where it never came to that."""

    operator: Operator
    select: str
    operate: str


async def armed(room: Room, name: str) -> None:
    """The daemon, started anew with a fail point."""
    await room.gateway.kill()
    await room.start(**{failpoint.VARIABLE: name})
    await room.good()
    room.mark()


async def command(room: Room, output: Output) -> Asked:
    """Select and operate, as far as it goes before the process is gone."""
    operator = room.operator(f"kill-{time.monotonic_ns()}")
    select = await operator.ask("select", point=output.point, value=output.value)
    await until(lambda: gone(room) or operator.answers(select), "selected or gone", 10)
    operate = ""
    if not gone(room):
        selected = operator.answers(select)[0]
        assert selected["result"] == "selected", selected
        operate = await operator.operate(selected)
    return Asked(operator, select, operate)


def gone(room: Room) -> bool:
    process = room.gateway.process
    return process is None or process.returncode is not None


def operated(room: Room, output: Output) -> int:
    """How often the simulator says it was."""
    return room.wrote(output.device).count(output.operate)


def outcomes(asked: Asked, tx: str) -> set[tuple[str, str]]:
    """The outcomes of a request; that more than one was said as new is a fault of its own."""
    ends = [one for one in asked.operator.answers(tx) if one["result"] == "done" and not one.get("late")]
    assert len([one for one in ends if not one["duplicate"]]) <= 1, ends
    return {(one["reason"], one["effect"]) for one in ends}


async def started_again(room: Room, asked: Asked) -> set[tuple[str, str]]:
    """The daemon without a fail point; the outcomes of the command (of its select where that is all there was)."""
    began = time.monotonic()
    await room.start()
    last = asked.operate or asked.select
    await until(lambda: outcomes(asked, last), f"an outcome: {room.gateway.log[-2000:]}", 20)
    assert time.monotonic() - began < patience_s()
    await room.good()
    return outcomes(asked, last)


def patience_s() -> float:
    return WITHIN_BUSY_S if os.getloadavg()[0] > (os.cpu_count() or 1) else WITHIN_S


def whole(room: Room) -> None:
    """Journal and audit trail are in order, and the crash is on record."""
    state = room.state
    assert inspect.verify(state) == []
    assert audit.verify(state).wrong == []


def cases(point: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.case("F1")] if point == INTENT else [pytest.mark.case("F3")] if point == SELECTED else [
        pytest.mark.case("F2")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("point", "protocol"), [pytest.param(*one, marks=cases(one[0])) for one in (ALL if LONG else SHORT)]
)
async def test_kill_9_at_a_fail_point(room: Room, point: str, protocol: str) -> None:
    output = OUTPUTS[protocol]
    await armed(room, point)
    asked = await command(room, output)
    await until(lambda: gone(room), "killed", 10)
    await asyncio.sleep(0.1)  # what a worker may still do with what it was given before
    before = operated(room, output)
    assert before == (0 if point in (SELECTED, INTENT) else 1)
    found = await started_again(room, asked)
    assert operated(room, output) == before, "sent again"
    expected = REASONS.get(point, "unknown")
    effect = {"aborted-restart": "none", "ok": "confirmed", "unknown": "possible"}[expected]
    assert found == {(expected, effect)}
    words = [one for one in room.words(asked.operate or asked.select) if one != "late"]
    assert words[-1] == "outcome"
    assert words.count("outcome") == 1
    whole(room)


@pytest.mark.case("F2")
async def test_kill_9_after_the_write_before_the_reply(room: Room) -> None:
    alice = room.operator("f2")
    selects = {protocol: await alice.select(output.point, output.value) for protocol, output in OUTPUTS.items()}
    room.rtu.lose.add("CROB:2")  # the SELECT is to be answered
    room.wires["BAY1"].mute = room.wires["MTR3"].mute = True
    operates = {protocol: await alice.operate(selected) for protocol, selected in selects.items()}
    await until(lambda: all(operated(room, output) == 1 for output in OUTPUTS.values()), "all written")
    await room.gateway.kill()
    for wire in room.wires.values():
        wire.heal()
    for protocol, operate in operates.items():
        if protocol == "dnp3":
            found = await started_again(room, Asked(alice, selects[protocol]["tx"], operate))
        else:
            await alice.end(operate)
            found = outcomes(Asked(alice, "", operate), operate)
        assert found == {("unknown", "possible")}
    assert [operated(room, output) for output in OUTPUTS.values()] == [1, 1, 1]
    whole(room)


@pytest.mark.case("F3")
@pytest.mark.case("F12")
async def test_kill_9_while_selected(room: Room) -> None:
    alice = room.operator("f3")
    held = {protocol: await alice.select(output.point, output.value) for protocol, output in OUTPUTS.items()}
    await room.gateway.kill()
    await room.start()
    for protocol, selected in held.items():
        await room.proof(alice, selected["tx"], "aborted-restart", "none", "select selected outcome")
        tx = await alice.operate(selected)  # the select_id is worth nothing any more
        await room.proof(alice, tx, "not-selected", "none", "refused")
        assert operated(room, OUTPUTS[protocol]) == 0
    await room.good()
    await until(lambda: room.wrote("BAY1") == ["SBOw CSWI1.Pos", "Cancel CSWI1.Pos"] or not alone(room), "taken back")


def alone(room: Room) -> bool:
    """The IED has dropped the select with its association: there is nothing to take back."""
    return "Cancel CSWI1.Pos" in room.wrote("BAY1")


@pytest.mark.case("F4")
async def test_sigterm_in_each_state(room: Room) -> None:
    alice = room.operator("f4")
    room.bay.stuck.add("CSWI1.Pos")
    room.bay.travel_s = 5
    room.outstation.answers[4] = lambda _: None
    supervising = await alice.sbo("BAY1/CB/POS", "open")
    await until(lambda: room.words(supervising)[-1:] == ["accepted"])
    selected = await alice.select("FDR12/CB/POS", "open")
    room.wires["BAY2"].mute = True
    selecting = await alice.ask("select", point="BAY2/SE", value=True)
    await until(lambda: "SBOw GGIO1.SPCSO4" in room.wrote("BAY1"))
    operating = await alice.sbo("SCR12/SW", True)
    await until(lambda: room.wrote("SCR12") == ["SELECT", "OPERATE"])
    assert await room.gateway.stop() == 0
    await room.proof(alice, selected["tx"], "aborted-shutdown", "none", "select selected outcome")
    done = await alice.end(selecting)
    assert (done["reason"], done["effect"]) in [("aborted-shutdown", "none"), ("device-no-answer", "none")]
    await room.proof(alice, operating, "unknown", "possible", "intent sent outcome")
    done = await alice.end(supervising)
    assert (done["reason"], done["effect"]) in [("unknown", "possible"), ("feedback-timeout", "possible")]
    assert room.wrote("FDR12") == []
    before = room.wrote("BAY1")
    room.bay.travel_s = 0.05
    room.wires["BAY2"].mute = False
    await room.start()
    await room.good()
    assert [one for one in room.wrote("BAY1")[len(before) :] if not one.startswith("Cancel")] == []
    assert room.wrote("SCR12") == ["SELECT", "OPERATE"]
    assert room.wrote("FDR12") == []
    controls = room.bay.server.controls
    assert controls is not None
    controls.finish("BAY1LD0/CSWI1.Pos", None)


@pytest.mark.case("F10")
async def test_a_torn_end_of_the_journal(room: Room) -> None:
    """The last commit, which is the outcome, is torn off: INTENT stands without one, and that is unknown."""
    output = OUTPUTS["modbus"]
    await armed(room, TOLD)
    asked = await command(room, output)
    await until(lambda: gone(room), "killed", 10)
    assert room.words(asked.operate)[-1] == "outcome"
    await asyncio.to_thread(tear, room.folder, asked.operate)
    room.read_again()
    assert room.words(asked.operate)[-1] != "outcome"
    found = await started_again(room, asked)
    assert found == {("unknown", "possible")}
    assert operated(room, output) == 1
    state = room.state
    assert all(one.endswith("were committed and are missing") for one in inspect.verify(state))  # and it says so
    assert audit.verify(state).wrong == []


def tear(folder: Path, tx: str) -> None:
    """Cut the write-ahead log off in the middle of the commit that has the outcome of a request."""
    state, trial = folder / "state", folder / "trial"
    trial.mkdir()
    wal = state / f"{schema.FILE}-wal"
    for end in reversed(commits(wal.read_bytes())):
        for path in (state / schema.FILE, wal):
            shutil.copy(path, trial / path.name)
        (trial / f"{schema.FILE}-shm").unlink(missing_ok=True)
        os.truncate(trial / wal.name, end - 100)
        records = [json.loads(one.record) for one in audit.entries(trial)]
        if "outcome" not in [one["what"] for one in records if one.get("tx") == tx]:
            os.truncate(wal, end - 100)
            (state / f"{schema.FILE}-shm").unlink(missing_ok=True)
            return
    raise AssertionError("the outcome is not in the log")


def commits(wal: bytes) -> list[int]:
    """Where the commits of a write-ahead log end (SQLite's file format, 4.1 and 4.2)."""
    page = int.from_bytes(wal[8:12], "big")
    frames = range(32, len(wal) - 24 - page + 1, 24 + page)
    ours = itertools.takewhile(lambda at: wal[at + 8 : at + 16] == wal[16:24], frames)
    return [at + 24 + page for at in ours if wal[at + 4 : at + 8] != bytes(4)]


@pytest.mark.case("F9")
async def test_a_full_disk(room: Room, tmp_path: Path) -> None:
    """Nothing is selected that cannot be put on record; with room again it goes on by itself."""
    await room.gateway.kill()
    output, usual = OUTPUTS["modbus"], room.state
    with mounted(tmp_path / "small", "24m") as small:
        room.state = small / "state"
        room.write_config()
        room.read_again()
        try:
            await room.start()
            await room.good()
            room.mark()
            alice = room.operator("f9")
            reason = ""
            filler = small / "filler"
            for _ in range(50):  # the journal gives up its reserve first, and commands live on it for a while
                await asyncio.to_thread(fill, filler)
                done = await alice.first(await alice.ask("select", point="MTR3/TARIFF", value="night"))
                reason = done["reason"]
                if reason == "inhibited":
                    break
                await alice.end(await alice.ask("cancel", select_id=done["select_id"]))
            assert (reason, done["effect"]) == ("inhibited", "none")
            assert "cannot be put on record" in done["detail"]
            assert room.nothing_written()
            filler.unlink()
            tries = [await alice.first(await alice.ask("select", point=output.point, value=output.value))]
            while tries[-1]["reason"] == "inhibited":
                assert len(tries) < 100
                await asyncio.sleep(0.1)
                tries.append(await alice.first(await alice.ask("select", point=output.point, value=output.value)))
            done = await alice.end(await alice.operate(tries[-1]))
            assert (done["reason"], done["effect"]) == ("ok", "confirmed")
            assert operated(room, output) == 1
            assert audit.verify(room.state).wrong == []
        finally:
            await room.gateway.kill()
            room.state = usual
            room.write_config()
            room.read_again()
    await room.start()


def fill(path: Path) -> None:
    """Take what is left of a disk."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


async def test_every_fail_point_of_the_command_path_is_here() -> None:
    folder = Path(failpoint.__file__).parent
    source = await asyncio.to_thread(lambda: "".join(path.read_text() for path in folder.glob("control/*.py")))
    assert set(re.findall(r'failpoint\.here\("(control-[a-z-]+)"\)', source)) == {
        *COMMAND_PATH,
        "control-after-restart",
    }


@pytest.mark.case("F2")
async def test_kill_9_during_the_restart(room: Room) -> None:
    output = OUTPUTS["dnp3"]
    await armed(room, WRITTEN)
    asked = await command(room, output)
    await until(lambda: gone(room), "killed", 10)
    await room.start(**{failpoint.VARIABLE: "control-after-restart"})
    await until(lambda: gone(room), "killed again", 10)
    found = await started_again(room, asked)
    assert found == {("unknown", "possible")}
    assert operated(room, output) == 1
    whole(room)


def all_good(room: Room) -> bool:
    room.look()
    return all(output.point in room.points and room.points[output.point]["quality"] == "good"
               for output in OUTPUTS.values())  # fmt: skip


if LONG:

    @pytest.mark.case("F1")
    @pytest.mark.parametrize("protocol", OUTPUTS)
    @pytest.mark.parametrize("passes", range(2, 26, 2))
    @pytest.mark.parametrize("point", ["journal-before-commit", "journal-after-commit"])
    async def test_kill_9_at_a_commit(room: Room, point: str, passes: int, protocol: str) -> None:
        """Wherever the n-th commit is: before the command, in it, or after it."""
        output = OUTPUTS[protocol]
        await room.gateway.kill()
        await room.start(**{failpoint.VARIABLE: f"{point}:{passes}"})
        asked = None
        await until(lambda: gone(room) or all_good(room), "good or gone", 20)
        room.mark()
        if not gone(room):
            asked = await command(room, output)
            with_end = asked.operate or asked.select
            await until(lambda: gone(room) or outcomes(asked, with_end), "ended or gone", 20)
        before = operated(room, output)
        assert before <= 1
        said = {tx: outcomes(asked, tx) for tx in (asked.select, asked.operate)} if asked is not None else {}
        await room.gateway.kill()
        await room.start()
        await room.good()
        assert operated(room, output) == before, "sent again"
        if asked is not None:
            last = asked.operate or asked.select
            known = bool(room.words(last))
            await until(lambda: outcomes(asked, last) or not known, f"one outcome: {room.trail(last)}", WITHIN_BUSY_S)
            found = outcomes(asked, last)
            assert len(found) == (1 if known else len(said[last]))
            if before:
                assert all(effect != "none" for _, effect in outcomes(asked, asked.operate))
        whole(room)
