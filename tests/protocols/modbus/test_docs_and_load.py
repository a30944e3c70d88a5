"""docs/modbus.md says what is there; the load generator does what its help says."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from pathlib import Path

import msgspec

from gatewayd.points.types import Kind
from gatewayd.protocols.modbus.address import parse
from gatewayd.protocols.modbus.command import parse_command, parse_guard
from gatewayd.protocols.modbus.config import Options
from gatewayd.protocols.modbus.memory import COUNTERS
from tests.protocols.modbus.support import device, driving, point
from tests.protocols.watching import Watch, until

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs/modbus.md").read_text()


def section(title: str) -> str:
    return DOCS.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_every_option_is_in_the_table_with_its_default():
    told = {}
    for line in section("In the configuration").splitlines():
        if line.startswith("| `"):
            keys, _, defaults, _ = (cell.strip() for cell in line.strip("|").split(" | "))
            names = re.findall(r"`(\w+)`", keys)
            told |= dict(zip(names, defaults.split(", "), strict=False))
    for field in msgspec.structs.fields(Options):
        assert told[field.name] == _shown(field.default), field.name
    assert set(told) == {field.name for field in msgspec.structs.fields(Options)} | {"tls"}


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"`{default}`" if isinstance(default, str) else f"{default:g}"


def test_every_counter_is_told():
    assert set(re.findall(r"`(\w+)`", section("Counters"))) == set(COUNTERS)


def cells(title: str) -> list[str]:
    rows = [line for line in section(title).splitlines() if line.startswith("| `")]
    firsts = (re.split(r"(?<!\\)\|", row)[1] for row in rows)
    return [text.replace("\\|", "|") for first in firsts for text in re.findall(r"`([^`]+)`", first)]


def test_every_address_in_the_table_is_one():
    written = [text for text in cells("Addresses") if ":" in text]
    assert len(written) == 9
    for text in written:
        for part in text.split("|") if "na=" not in text else [text]:
            parse(part)


def test_every_command_in_the_tables_is_one():
    written = [text for text in cells("Commands") if re.match(r"(CO|HR):", text)]
    assert len(written) >= 8
    for text in written:
        kinds = [Kind.DOUBLE, Kind.ANALOG, Kind.STRING]
        assert any(_understood(text, kind) for kind in kinds), text
    (recipe,) = re.findall(r"^recipe=.*$", DOCS, re.MULTILINE)
    assert _understood(recipe, Kind.DOUBLE)
    (guard,) = re.findall(r"\| `guard` \| `([^`]+)`", DOCS)
    assert len(parse_guard(guard)) == 3


def _understood(text: str, kind: Kind) -> bool:
    try:
        parse_command(text, kind)
    except ValueError:
        return False
    return True


async def test_the_load_serves_and_says_what_it_served():
    words = ("-m", "benchmarks.load_modbus", "--devices", "2", "--registers", "200", "--seconds", "60")
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    try:
        ports = json.loads(await asyncio.wait_for(process.stdout.readline(), 10))["ports"]
        assert len(ports) == 2
        watch = Watch()
        points = [point(at, Kind.ANALOG, f"HR:{at}") for at in range(200)]
        async with driving(device(ports[1], points, poll_s=0.05), watch):
            await until(lambda: len(set(watch.values(7))) >= 2)
            first, second = list(dict.fromkeys(watch.values(7)))[:2]
            assert isinstance(first, int)
            assert second == first + 1
            assert watch.values(7)[:2] == watch.values(199)[:2]
        process.send_signal(signal.SIGTERM)
        served = json.loads(await asyncio.wait_for(process.stdout.readline(), 10))
        assert served["requests"] >= 2
        assert served["values"] == served["requests"] * 100
        assert served["refused"] == 0
        assert await asyncio.wait_for(process.wait(), 5) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_load_measures_the_driver():
    words = ["-m", "benchmarks.load_modbus", "--devices", "2", "--registers", "50", "--seconds", "1", "--drive"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, "--still", stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    measured = json.loads(output)
    assert process.returncode == 0
    assert measured["cpu_percent"] > 0
    assert measured["bad_samples"] == 0
    assert measured["served"]["refused"] == 0
