"""The command line of tags, inhibits, sweeps, keys and audit: what is not understood, and whole commands as typed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import click
import pytest
import pytest_asyncio

from gatewayd import cli
from gatewayd.console.operator import Exit
from tests.brokers import Mosquitto
from tests.cli.desk import DeskRoom, desk_room
from tests.control.support import CB

GROUPS = ("tag", "inhibit", "audit", "keys")


@pytest.mark.parametrize("group", GROUPS)
def test_every_sub_command_explains_itself_and_its_exit_status(group: str) -> None:
    found = cli.cli.commands[group]
    assert isinstance(found, click.Group)
    for name, command in found.commands.items():
        text = command.get_help(click.Context(command, info_name=f"gatewayd {group} {name}"))
        assert "Exit status" in text, name
        for param in command.params:
            assert isinstance(param, click.Argument) or getattr(param, "help", None), param.name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("tag", "set", "lock", CB), "'personal-lock'"),
        (("tag", "fly"), "No such command"),
        (("inhibit", "on"), "Missing argument"),
        (("sweep", "--json"), "give --yes too"),
        (("audit", "verify", "--head", "12"), "64 hexadecimal digits"),
        (("audit", "verify", "--heads", "nowhere"), "cannot be read"),
        (("control", CB, "open", "--key", "nowhere.pem"), "cannot be read"),
        (("tag", "list", "--operator", "a/b"), "cannot be an operator's name"),
    ],
)
def test_what_is_not_understood_is_64_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["gatewayd", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == cli.USAGE
    assert said in capsys.readouterr().err


def test_a_key_that_everybody_can_read_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "alice.pem"
    for words, status in ((("keys", "new", str(file)), 0), (("clear", CB, "--key", str(file)), cli.USAGE)):
        monkeypatch.setattr(sys, "argv", ["gatewayd", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == status
        file.chmod(0o644)
    assert "lets everybody on this machine at it" in capsys.readouterr().err


@pytest_asyncio.fixture
async def room(broker: Mosquitto, tmp_path: Path) -> AsyncIterator[DeskRoom]:
    async with desk_room(tmp_path / "state", broker.url) as one:
        yield one


async def typed(room: DeskRoom, *words: str) -> tuple[int, str]:
    """A command as a process of its own; its exit status and all it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gatewayd", *words,
        env={"GATEWAYD_URL": room.url, "GATEWAYD_BASE": "gw/test", "PATH": ""},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, out.decode()


async def test_a_day_at_the_desk_as_typed(room: DeskRoom) -> None:
    alice = ("--operator", "alice")
    status, out = await typed(room, "tag", "set", "personal-lock", CB, "--note", "at work", *alice)
    assert (status, "hangs: personal-lock" in out) == (Exit.OK, True)
    assert "at work" in (await typed(room, "tag", "list", CB))[1]
    assert (await typed(room, "tag", "remove", CB, "--operator", "bob"))[0] == Exit.REFUSED
    assert (await typed(room, "tag", "remove", CB, *alice))[0] == Exit.OK
    assert (await typed(room, "inhibit", "on", "gateway", *alice))[0] == Exit.OK
    status, out = await typed(room, "sweep", "BAY1/*", *alice)  # nobody there to say yes
    assert (status, "nothing was sent" in out) == (Exit.REFUSED, True)
    assert (await typed(room, "clear", CB, *alice))[0] == Exit.OK
    await room.audit()
    state = ("--state-dir", str(room.folder))
    assert "tag-removed" in (await typed(room, "audit", "show", *state))[1]
    assert (await typed(room, "audit", "verify", *state))[0] == 0
