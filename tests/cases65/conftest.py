"""One station a module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cases65.room import Room, opened


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
