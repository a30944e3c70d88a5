"""The log: systemd's journal natively with fields, text elsewhere; nothing forged, nothing waited for."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatewayd import journald

SAY = """
import sys, structlog
from gatewayd import log
log.configure("info", socket=sys.argv[1])
logger = structlog.get_logger("datapath")
logger.debug("not said")
logger.warning("device is down", device="FDR12", point="FDR12/CB/POS", tx="6f2c", cause="no\\n<0>forged \\x1b[2J line")
logger.info("a login", password="hunter2", mqtt_secret="hunter2", api_token="hunter2")
try:
    raise ValueError("first\\nsecond \\x1b[2J")
except ValueError:
    logger.exception("driver failed", device="FDR12")
"""


class FakeJournal:
    """A datagram socket in the place of the journal's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def lines(self) -> list[dict[str, str]]:
        """All lines that wait, taken apart."""
        found = []
        while True:
            try:
                found.append(parsed(self.socket.recv(1 << 20)))
            except BlockingIOError:
                return found


def parsed(data: bytes) -> dict[str, str]:
    """One datagram, by the words of the protocol's description."""
    fields = {}
    while data:
        head, _, data = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (size,) = struct.unpack("<Q", data[:8])
            value, data = data[8 : 8 + size], data[8 + size :]
            assert data[:1] == b"\n"
            data = data[1:]
        assert re.fullmatch(rb"[A-Z][A-Z0-9_]{0,63}", name)
        assert name not in fields
        fields[name.decode()] = value.decode()
    return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FakeJournal]:
    fake = FakeJournal(tmp_path / "journal")
    yield fake
    fake.socket.close()


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[journald.Journal]:
    with contextlib.closing(journald.Journal(str(tmp_path / "journal"))) as one:
        yield one


def said(tmp_path: Path, socket_path: Path, *, journal_reads: bool) -> str:
    """What a process that logs says on its standard error."""
    path = tmp_path / "stderr"
    with path.open("wb") as stream:
        found = os.fstat(stream.fileno())
        named = f"{found.st_dev}:{found.st_ino if journal_reads else found.st_ino + 1}"
        subprocess.run(
            [sys.executable, "-c", SAY, str(socket_path)],
            check=True, stderr=stream, timeout=30, env={**os.environ, "JOURNAL_STREAM": named},
        )  # fmt: skip
    return path.read_text()


def test_under_systemd_lines_have_fields(tmp_path: Path, journal: FakeJournal) -> None:
    assert said(tmp_path, journal.path, journal_reads=True) == "", "nothing is said twice"
    down, login, failed = journal.lines()
    assert down["GATEWAYD_DEVICE"] == "FDR12"
    assert down["GATEWAYD_POINT"] == "FDR12/CB/POS"
    assert down["GATEWAYD_TX"] == "6f2c"
    assert (down["PRIORITY"], down["SYSLOG_IDENTIFIER"], down["GATEWAYD_PART"]) == ("4", "gatewayd", "datapath")
    assert down["MESSAGE"].startswith("device is down device=FDR12 point=FDR12/CB/POS tx=6f2c cause=")
    assert "\n" not in down["MESSAGE"]
    assert "\x1b" not in down["MESSAGE"] + down["GATEWAYD_CAUSE"]
    assert "hunter2" not in str(login)
    assert login["PRIORITY"] == "6"
    assert failed["PRIORITY"] == "3"
    assert "Traceback" in failed["MESSAGE"]
    assert "ValueError: first" in failed["MESSAGE"]
    assert "\x1b" not in failed["MESSAGE"]


@pytest.mark.parametrize("journal_reads", [True, False])
def test_without_a_journal_lines_are_text(tmp_path: Path, journal_reads: bool) -> None:
    text = said(tmp_path, tmp_path / "nobody", journal_reads=journal_reads)
    assert "device is down" in text
    assert "FDR12/CB/POS" in text
    assert "hunter2" not in text
    assert "\x1b[2J" not in text
    assert "ValueError: first" in text
    assert not re.search(r"^<0>", text, re.MULTILINE), "no value begins a line of its own"
    starts = re.findall(r"^<(\d)>", text, re.MULTILINE)
    assert bool(starts) is journal_reads, "the journal takes a line's priority from its prefix; people need none"
    if journal_reads:
        assert len(starts) == len(text.splitlines())


def test_a_journal_that_does_not_take_lines_costs_lines_and_little_time(
    journal: FakeJournal, ours: journald.Journal
) -> None:
    sent = 0
    while not ours.lost:
        assert ours.send({"MESSAGE": f"line {sent}"})
        sent += 1
        assert sent < 100_000, "a queue without an end"
    began = time.monotonic()
    for _ in range(1000):
        assert ours.send({"MESSAGE": "lost too"})
    assert time.monotonic() - began < 1000 * journald.PATIENCE_US / 1e6 / 10, "it is waited for once, not each time"
    assert ours.lost == 1001
    assert len(journal.lines()) == sent - 1
    assert ours.send({"MESSAGE": "room again"})
    assert ours.send({"MESSAGE": "and again"})
    told, after = journal.lines()
    assert told["GATEWAYD_LINES_LOST"] == "1001"
    assert "GATEWAYD_LINES_LOST" not in after


def test_a_line_is_bounded(journal: FakeJournal, ours: journald.Journal) -> None:
    fields = {"MESSAGE": "é" * 100_000, **{f"GATEWAYD_F{at}": "x\n" * 10_000 for at in range(100)}}
    assert ours.send(fields)
    (line,) = journal.lines()
    assert len(line) == journald.MOST_FIELDS
    assert line["MESSAGE"].endswith("é…")
    assert len(line["MESSAGE"].encode()) <= journald.MOST_MESSAGE
    assert all(len(value.encode()) <= journald.MOST_OCTETS for key, value in line.items() if key != "MESSAGE")


def test_a_journal_that_was_restarted_is_found_again(tmp_path: Path, ours: journald.Journal) -> None:
    path = tmp_path / "journal"
    assert not ours.send({"MESSAGE": "nobody there"})
    first = FakeJournal(path)
    assert ours.send({"MESSAGE": "first"})
    first.socket.close()
    assert not ours.send({"MESSAGE": "gone"})
    path.unlink()
    second = FakeJournal(path)
    assert ours.send({"MESSAGE": "second"})
    assert [line["MESSAGE"] for line in second.lines()] == ["second"]
    second.socket.close()
