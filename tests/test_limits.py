"""docs/limits.md says what the code does."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "limits.md").read_text()
UNIT = (ROOT / "systemd" / "gatewayd.service").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| limit", "| what"))
]
CONSTANT = re.compile(r"`([a-z_0-9.]+\.[A-Z][A-Z_0-9]+)`")
NAMED = [
    (name, value)
    for row in ROWS
    if len(row) == 4 and CONSTANT.search(row[0])
    for name, value in zip(CONSTANT.findall(row[0]), row[1].split(", "), strict=True)
]


@pytest.mark.parametrize(("name", "value"), NAMED)
def test_a_limit_has_the_value_that_is_said(name: str, value: str) -> None:
    module, _, constant = name.rpartition(".")
    assert str(getattr(import_module(f"gatewayd.{module}"), constant)) == value


def test_every_limit_has_a_name_a_value_and_an_end() -> None:
    assert len(NAMED) > 50
    for limit, value, _, end in (row for row in ROWS if len(row) == 4):
        assert limit
        assert value
        assert end


@pytest.mark.parametrize("name", ["MemoryMax", "TasksMax", "LimitNOFILE"])
def test_the_limits_of_the_unit_are_those_of_the_page(name: str) -> None:
    (row,) = [row for row in ROWS if row[0] == f"`{name}` (unit)"]
    assert f"\n{name}={row[1]}\n" in UNIT


def test_every_constant_that_is_named_like_a_limit_is_on_the_page() -> None:
    """A new MOST_… is a new line. Left out: what is no bound on anything that grows."""
    unlisted = set()
    for path in (ROOT / "gatewayd").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT / "gatewayd").with_suffix("").parts)
        if module.startswith(("console.", "engineering.", "cli.")):
            continue
        for constant in re.findall(r"^(MOST_[A-Z_]+|MAX_[A-Z_]+) =", path.read_text(), re.MULTILINE):
            if (name := f"{module}.{constant}") not in {found for found, _ in NAMED}:
                unlisted.add(name)
    assert unlisted <= OF_NO_CONCERN, sorted(unlisted - OF_NO_CONCERN)


OF_NO_CONCERN = {
    "control.gates.MAX_INPUTS_SHOWN",  # of a message to people
    "control.desk.MOST_SHOWN",
    "mqtt.publisher.MAX_PARTS",  # of a topic that is taken for ours
    "mqtt.requests.MAX_INTEGER",
    "mqtt.requests.MAX_SEQ",
    "protocols.dnp3.reading.MOST_NAMED",  # of a message to people
    "protocols.dnp3.library.MOST_FILES",  # asked of the system; LimitNOFILE bounds it
    "protocols.modbus.framing.MOST_NOISE",  # of a frame
    "protocols.modbus.pdu.MOST_REGISTERS_READ",  # of the standard
    "protocols.modbus.pdu.MOST_BITS_READ",
    "protocols.modbus.pdu.MOST_REGISTERS_WRITTEN",
    "store.schema.MAX_ROWS",  # of one statement
}
