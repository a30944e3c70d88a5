"""docs/control.md: its tables say all there is, its lines and its program do what they say, as they stand there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
import pytest_asyncio

from gatewayd.control.identity import GRANTS, Right, Role
from gatewayd.control.keys import SigningKey, verified
from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.settings import ControlSettings
from gatewayd.control.states import State
from gatewayd.control.tags import TagKind
from gatewayd.control.types import Stage
from tests.brokers import Mosquitto, until
from tests.cli.desk import DeskRoom, desk_room
from tests.control.support import CB
from tests.mqtt.support import console

PAGE = (Path(__file__).parents[2] / "docs" / "control.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", section(title), re.MULTILINE | re.DOTALL)


def rows(title: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section(title).splitlines() if "|" in line
    ]


# --- the tables -----------------------------------------------------------------------------------------------------


def test_every_reason_has_a_meaning_and_an_effect() -> None:
    found: dict[str, str] = {}
    for first, effects, meaning, *_ in rows("The reasons"):
        for reason in re.findall(r"`([a-z-]+)`", first):
            assert reason not in found
            assert meaning
            found[reason] = effects
    assert set(found) == set(Reason)
    for reason, effects in found.items():
        assert set(effects.split(", ")) <= set(Effect), reason


def test_every_state_row_and_gate_is_there() -> None:
    text = section("The states of a point")
    assert set(re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE)) == set(State)
    assert re.findall(r"^\| (\d+) \|", text, re.MULTILINE) == [str(n) for n in range(1, 33)]
    named = set(re.findall(r"`([a-z-]+)`", section("The conditions, in order")))
    assert {Reason.BAD_REQUEST, Reason.RETAINED, Reason.EXPIRED, Reason.TAGGED, Reason.INTERLOCKED} <= named
    assert re.findall(r"^\| (R\d+) \|", PAGE, re.MULTILINE) == [f"R{n}" for n in range(1, 13)]


def test_every_setting_tag_and_role_is_there() -> None:
    times = section("Times")
    for field in ControlSettings.__struct_fields__:
        assert f"`{field}`" in times, field
    defaults = {name: default for names, default, *_ in rows("Times") for name in re.findall(r"`([a-z_]+)`", names)}
    for field in msgspec.structs.fields(ControlSettings):
        number = re.match(r"[\d,]+", defaults[field.name])
        if isinstance(field.default, float) and number:
            assert float(number[0].replace(",", "")) == field.default, field.name
    for kind in TagKind:
        assert str(kind) in section("Tags and inhibits")
    told = dict(row for row in rows("Who may") if len(row) == 2)
    words = {Right.CONTROL: "command", Right.TEST: "test", Right.TAG: "tag,", Right.INHIBIT: "inhibit"}
    for role in Role:
        for right, word in words.items():
            assert (right in GRANTS[role]) is (word in told[f"`{role}`"]), (role, right)


# --- the lines and the program --------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def room(broker: Mosquitto, tmp_path: Path) -> AsyncIterator[DeskRoom]:
    async with desk_room(tmp_path / "state", broker.url) as one:
        yield one


def here(text: str, broker: Mosquitto) -> str:
    """The page's words for this broker and this gateway."""
    assert "18830" in text
    assert "gw/demo" in text
    return text.replace("18830", str(broker.port)).replace("gw/demo", "gw/test")


class Terminal:
    """A person at a shell who types the page's lines, block by block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def __aenter__(self) -> Self:
        self.shell = await asyncio.create_subprocess_exec(
            "sh", stdin=asyncio.subprocess.PIPE, cwd=self.folder, start_new_session=True
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        os.killpg(self.shell.pid, signal.SIGTERM)  # the shell and what listens in its background: a group of its own
        await self.shell.wait()

    def type(self, block: str) -> None:
        assert self.shell.stdin is not None
        self.shell.stdin.write(block.encode())

    async def listens(self, broker: Mosquitto) -> None:
        """Until mosquitto_sub of the page is subscribed: it hears what is said there."""
        async with console(broker.url) as other, asyncio.timeout(15):
            while "ready" not in self.heard:
                await other.publish("reply/alice", b"ready")
                await asyncio.sleep(0.05)

    @property
    def heard(self) -> str:
        path = self.folder / "answers"
        return path.read_text() if path.exists() else ""

    @property
    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.heard.splitlines() if line.endswith("}")]

    async def answered(self, stage: str, result: str) -> dict[str, Any]:
        count = len(self.answers)

        def last() -> dict[str, Any] | None:
            found = [one for one in self.answers[count:] if (one["stage"], one["result"]) == (stage, result)]
            return found[-1] if found else None

        await until(last, f"{stage} {result}: {self.answers}")
        found = last()
        assert found is not None
        return found


async def test_the_lines_of_the_page_select_cancel_operate_and_tag(
    room: DeskRoom, broker: Mosquitto, tmp_path: Path
) -> None:
    listen, select, cancel, operate, tag, untag = blocks("With mosquitto alone", "sh")
    async with Terminal(tmp_path) as person:
        person.type(here(listen, broker))
        await person.listens(broker)
        person.type(select)
        selected = await person.answered("select", "selected")
        person.type(cancel)
        assert (await person.answered("cancel", "done"))["reason"] == "cancelled"
        person.type(select)
        again = await person.answered("select", "selected")
        assert again["select_id"] != selected["select_id"]
        person.type(operate)
        done = await person.answered("operate", "done")
        assert (done["reason"], done["effect"]) == ("ok", "confirmed")
        person.type(tag)
        hung = await person.answered("tag", "done")
        assert [one.note for one in room.desk.tags_of(CB)] == ["spring motor weak"]
        person.type(untag)
        assert (await person.answered("tag", "done"))["tag"] == hung["tag"]
        assert room.desk.tags_of(CB) == []
    assert room.field.count("operate") == 1
    assert [one.stage for one in room.requests] == [
        Stage.SELECT, Stage.CANCEL, Stage.SELECT, Stage.OPERATE, Stage.TAG, Stage.TAG,
    ]  # fmt: skip


async def test_the_program_of_the_page_operates(room: DeskRoom, broker: Mosquitto, tmp_path: Path) -> None:
    [program] = blocks("From a program", "python")
    assert len(program.splitlines()) <= 35
    path = tmp_path / "operate.py"
    path.write_text(here(program, broker))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, out.decode()) == (0, "ok confirmed\n")
    assert room.field.count("operate", CB) == 1


def test_the_signature_of_the_page_is_what_the_gateway_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = SigningKey.new()
    (tmp_path / "alice.pem").write_bytes(key.pem())
    [lines] = blocks("Who may", "python")
    names: dict[str, Any] = {"topic": "gw/test/cmd/alice/select", "payload": b'{"tx":"1"}'}
    exec(lines, names)
    (_, key_id), (_, signature) = names["properties"]
    assert key_id == key.id
    assert verified(key.public, names["topic"], names["payload"], signature)
    assert not verified(key.public, names["topic"], names["payload"] + b" ", signature)


def test_every_command_of_the_page_exists() -> None:
    from gatewayd.cli import cli

    for line in re.findall(r"`?(gatewayd [a-z][^`\n#]*)", PAGE):
        words = line.split()
        command = cli.commands.get(words[1])
        assert command is not None, line
        sub = getattr(command, "commands", {}).get(words[2] if len(words) > 2 else "")
        known = {option for param in (sub or command).params for option in param.opts}
        assert {word for word in words if word.startswith("--")} <= known, line
