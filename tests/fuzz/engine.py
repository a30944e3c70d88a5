"""Drives a parser's target: corpus first, then damaged copies of it, for as long as is wanted.

Hypothesis shrinks what it finds to a few octets; atheris, where it is installed, is guided by coverage.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.parsers import TARGETS, Target

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
FOUND = HERE / "found"
LONGEST = 4096
BATCH = 400
SLOWEST_S = 5.0
"""A parser that takes longer for a few kilobytes hangs, for whoever waits."""

INTERESTING = (
    b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\xff\xff\xff\xff", b"\x00\x00", b"\r\n", b"\n", b"\0" * 16,
    b'"', b"'", b"{", b"}", b"[", b"]", b"(" * 40, b"[" * 40, b",", b"=", b"-1", b"1e999", b"nan", b"9" * 30,
    "\u202e\u2028é".encode(), b"\xed\xa0\x80", b"\x05\x64", b"\xa2\x84\xff\xff\xff\xff",
)  # fmt: skip
"""Octets that parsers dislike."""


class Result(NamedTuple):
    """What became of a target: how often it was tried, and what it could not bear ("" nothing)."""

    tries: int
    finding: str


def corpus(name: str) -> list[bytes]:
    """The octets to begin with; everything in corpus/<target>/, and what came of earlier findings."""
    folder = CORPUS / name
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []


def damaged(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Damaged copies: cut, doubled, overwritten, spliced; and octets of no form at all."""
    scrap = st.sampled_from(INTERESTING) | st.binary(max_size=8)
    edit = st.tuples(st.integers(0, LONGEST), st.integers(0, 40), scrap)

    def apply(octets: bytes, edits: list[tuple[int, int, bytes]], tail: bytes, cut: int) -> bytes:
        for at, length, new in edits:
            place = at % (len(octets) + 1)
            octets = octets[:place] + new + octets[place + length :]
        return (octets[: cut % (len(octets) + 1)] if cut else octets)[:LONGEST] + tail

    some = st.sampled_from([b"", *seeds])
    built = st.builds(
        apply, some, st.lists(edit, max_size=4), st.just(b"") | some, st.just(0) | st.integers(1, LONGEST)
    )
    return built | st.binary(max_size=64)


def replay(name: str) -> int:
    """The corpus as it is. Raises what the target raises."""
    seeds = corpus(name)
    for octets in seeds:
        _timed(TARGETS[name], octets)
    return len(seeds)


def run(name: str, *, seconds: float, first_seed: int = 1, batch: int = BATCH) -> Result:
    """Try until the time is over; the first finding ends it, and is kept in FOUND."""
    end = time.monotonic() + seconds
    tries = 0
    for number in itertools.count(first_seed):
        tried, finding = _batch(name, number, batch)
        tries += tried
        if finding or time.monotonic() >= end:
            break
    return Result(tries, finding)


def _batch(name: str, number: int, examples: int) -> Result:
    tried: list[bytes] = []

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(corpus(name)))
    def attack(octets: bytes) -> None:
        tried.append(octets)
        _timed(TARGETS[name], octets)

    try:
        attack()
    except Exception as error:  # whatever it is, it was not promised
        return Result(len(tried), f"{type(error).__name__}: {error}\n{_keep(name, tried[-1])}")
    return Result(len(tried), "")


def _timed(target: Target, octets: bytes) -> None:
    began = time.monotonic()
    target(octets)
    took = time.monotonic() - began
    assert took < SLOWEST_S, f"{took:.1f} s for {len(octets)} octets"


def _keep(name: str, octets: bytes) -> str:
    FOUND.mkdir(exist_ok=True)
    path = FOUND / f"{name}-{hashlib.sha256(octets).hexdigest()[:12]}"
    path.write_bytes(octets)
    return f"{octets!r} in {path}"


# ---- atheris


def has_atheris() -> bool:
    """Whether it is installed for this Python."""
    return importlib.util.find_spec("atheris") is not None


def run_guided(name: str, *, seconds: float) -> Result:
    """The same in a process of its own under atheris, which never returns."""
    FOUND.mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-m", "tests.fuzz.guided", name, f"-max_total_time={int(seconds)}", "-timeout=10"),
        *("-rss_limit_mb=1024", f"-max_len={LONGEST}", f"-artifact_prefix={FOUND}/{name}-", "-verbosity=1"),
    ]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    tries = re.findall(r"^#(\d+)", said, re.MULTILINE)
    count = int(tries[-1]) if tries else 0
    return Result(count, "" if done.returncode == 0 else said[-3000:])
