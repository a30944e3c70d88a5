"""One station a module, and the table of the cases at the end of a run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cases65.room import Room, opened
from tests.cases65.table import CASES, NOT_HERE

_cases: dict[str, list[str]] = {}
"""The ids by the name of the test."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def station(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Room]:
    """The station of this module; a module says what is special with it in ROOM."""
    async with opened(tmp_path_factory.mktemp("station"), **getattr(request.module, "ROOM", {})) as room:
        yield room


@pytest_asyncio.fixture(loop_scope="module")
async def room(station: Room) -> AsyncIterator[Room]:
    """The station as at its beginning."""
    station.mark()
    yield station
    await station.put_right()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of all tests of the run, wherever they are."""
    for item in items:
        ids = [str(one) for mark in item.iter_markers("case") for one in mark.args]
        if ids:
            _cases[item.nodeid] = ids


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """`case -> pass`, with how many tests said so."""
    said: dict[str, list[str]] = {}
    for word, reports in terminalreporter.stats.items():
        if word in ("passed", "failed", "error", "skipped"):
            for report in reports:
                for case in _cases.get(getattr(report, "nodeid", ""), []):
                    said.setdefault(case, []).append(word)
    if not said:
        return
    terminalreporter.section("control cases")
    for case, text in CASES.items():
        words = said.get(case, [])
        bad = [word for word in words if word != "passed"]
        verdict = "not run" if not words else f"{bad[0].upper()}" if bad else "pass"
        terminalreporter.write_line(f"{case:>4}  {verdict:8} {f'{len(words)} tests' if words else '':9} {text}")
    for case, text in NOT_HERE.items():
        terminalreporter.write_line(f"{case:>4}  {'-':8} {'':9} {text} (not in this product: no redundancy)")
