from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import structlog

from gatewayd.console.mqtt import quiet_logs
from gatewayd.mqtt.settings import MqttSettings
from tests.brokers import Mosquitto
from tests.cli.gateway import ScriptedGateway, scripted_gateway


@pytest.fixture(autouse=True)
def _quiet_as_the_command_line_is() -> Iterator[None]:
    before = structlog.get_config()
    quiet_logs()
    yield
    structlog.configure(**before)


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with Mosquitto(tmp_path / "broker") as one:
        yield one


@pytest_asyncio.fixture
async def gateway(broker: Mosquitto) -> AsyncIterator[ScriptedGateway]:
    async with scripted_gateway(broker.url) as one:
        yield one


@pytest.fixture
def settings(broker: Mosquitto) -> MqttSettings:
    return MqttSettings(url=broker.url)
