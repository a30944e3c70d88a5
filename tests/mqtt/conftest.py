from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.brokers import Mosquitto


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker
