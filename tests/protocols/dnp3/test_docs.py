"""docs/dnp3.md says what is there."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from gatewayd.protocols.dnp3 import quality
from gatewayd.protocols.dnp3.address import TYPES, parse
from gatewayd.protocols.dnp3.command import CROB_FORMS, AnalogCommand, parse_command
from gatewayd.protocols.dnp3.config import Options
from gatewayd.protocols.dnp3.memory import COUNTERS
from gatewayd.protocols.dnp3.status import STATUS

DOCS = (Path(__file__).parents[3] / "docs/dnp3.md").read_text()


def section(title: str) -> str:
    return DOCS.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(title: str) -> list[list[str]]:
    """The cells of every table row of a section."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_every_option_is_in_the_table_with_its_default() -> None:
    told = {cells[0].strip("`"): cells[2].strip("`") for cells in rows("In the configuration") if "`" in cells[0]}
    fields = {field.name: field.default for field in msgspec.structs.fields(Options)}
    shown = {name: str(value).lower() if isinstance(value, bool) else f"{value}" for name, value in fields.items()}
    assert {name: told.get(name) for name in fields} == {name: text.removesuffix(".0") for name, text in shown.items()}
    assert set(told) - set(fields) == {"tls` (of the device)"}


def test_every_counter_is_told() -> None:
    assert set(re.findall(r"`(\w+)`", section("Counters"))) == set(COUNTERS)


def test_every_type_is_told_with_its_groups_and_kinds() -> None:
    told = {}
    for address, words, read, kinds in rows("Addresses")[1:]:
        if "|" not in address:
            told[parse(address.strip("`")).type] = (words.split(":")[0], read, kinds)
    assert set(told) == set(TYPES)
    for name, (words, read, kinds) in told.items():
        one = TYPES[name]
        assert words.startswith(one.words)
        assert re.findall(r"\bg(\d+)", read) == [str(one.static), str(one.event)]
        assert kinds.split(", ") == [str(kind) for kind in one.kinds]


def test_every_flag_is_told_by_its_name() -> None:
    told_rows = rows("Quality and time")
    table = next(at for at, cells in enumerate(told_rows) if cells[0] == "bit")
    header, *bits = told_rows[table : table + 9]
    for column, kinds in enumerate(header[1:], 1):
        for kind in kinds.split(", "):
            for bit in range(8):
                told = bits[bit][column]
                _, *named = quality.names(kind, 1 << bit) if bit else ("", "ONLINE")
                words = [name for name in named if name != "STATE 00"]
                assert len(words) == 1
                assert words[0].startswith(told), (kind, bit)


def test_every_command_is_one_and_every_form_is_there() -> None:
    forms = set()
    codes = {}
    for written, true, false in rows("Commands"):
        if written.startswith(("`CROB", "`AO")):
            command = parse_command(written.strip("`"))
            forms.add(command.form)
            if isinstance(command, AnalogCommand):
                continue
            for block, told in ((command.true, true), (command.false, false)):
                for code in re.findall(r"0x([0-9A-F]{2})", told):
                    assert block is not None
                    assert block.code == int(code, 16), written
                    codes[written] = code
    assert forms == {*CROB_FORMS, "i16"}
    assert len(codes) == 4


def test_every_status_is_told_with_its_reason() -> None:
    told = {cells[0]: (cells[1], cells[2]) for cells in rows("Commands") if cells[0][:1].isdigit()}
    for code, (name, reason) in STATUS.items():
        assert told[str(code)] == (name, reason)
    assert {key for key in told if key.isdigit()} == {"0", *map(str, STATUS)}
