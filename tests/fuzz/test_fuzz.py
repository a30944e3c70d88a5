"""The short form of `make fuzz`: the corpus, and some seconds of lies for each target."""

from __future__ import annotations

import pytest

from tests.fuzz import engine
from tests.fuzz.parsers import TARGETS
from tests.fuzz.stacks import STACKS

TRIES = 120
SIEGE_S = 5.0
LATE_S = 8.0
"""Other tests run beside this one: a bound for hangs. The long form asks for two seconds."""


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_gives_a_value_or_a_documented_exception(name: str) -> None:
    assert engine.replay(name) > 0, "there is something to begin with"
    result = engine.run(name, seconds=0, batch=TRIES)
    assert not result.finding
    assert result.tries >= TRIES


@pytest.mark.parametrize("name", STACKS)
async def test_a_stack_bears_peers_that_lie(name: str) -> None:
    report = await STACKS[name](SIEGE_S, 1, LATE_S)
    assert not report.finding, report
    assert len(report.told) > 5, "many lies were told"


def test_the_engine_finds_what_is_there_and_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    def brittle(data: bytes) -> None:
        if b"\xff\xff" in data:
            raise IndexError("on purpose")

    monkeypatch.setitem(TARGETS, "brittle", brittle)
    monkeypatch.setattr(engine, "FOUND", tmp_path)
    result = engine.run("brittle", seconds=5)
    assert "on purpose" in result.finding
    (kept,) = tmp_path.iterdir()  # type: ignore[attr-defined]
    assert b"\xff\xff" in kept.read_bytes()
    assert len(kept.read_bytes()) <= 8, "shrunk"
