from pathlib import Path

import msgspec
import pytest

from gatewayd.config_tables import DeviceTable, FileTable, GatewayTable, JournalTable, WorkerSettings
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.points import quality as q
from gatewayd.points.cells import PARSERS
from gatewayd.points.expressions import FUNCTIONS
from gatewayd.protocols.registry import PROTOCOLS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("table", [DeviceTable, FileTable, GatewayTable, JournalTable, MqttSettings, WorkerSettings])
def test_every_key_is_explained(table: type[msgspec.Struct]) -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    names = {field.encode_name for field in msgspec.structs.fields(table)} - set(PROTOCOLS)
    assert [name for name in sorted(names) if f"`{name}`" not in text and f"[{name}]" not in text] == []


def test_every_column_is_explained() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert [column for column in PARSERS if f"`{column}`" not in text] == []


def test_every_function_of_expressions_is_explained() -> None:
    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert [name for name in FUNCTIONS if f"`{name}" not in text] == []


def test_every_flag_is_named() -> None:
    text = (DOCS / "quality-and-time.md").read_text(encoding="utf-8")
    assert [name for name in q.FLAG_NAMES.values() if name not in text] == []
