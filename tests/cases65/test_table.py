"""The table is the specification's, and every case in it has a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cases65.table import CASES, NOT_HERE

TESTS = Path(__file__).resolve().parents[1]


def marked() -> dict[str, set[str]]:
    """The files by the ids their tests are marked with."""
    found: dict[str, set[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for case in re.findall(r'mark\.case\("(\w+)"\)', path.read_text()):
            found.setdefault(case, set()).add(path.name)
    return found


def test_the_table_is_complete() -> None:
    counts = {"N": 18, "R": 24, "F": 16, "S": 10, "H": 6}
    assert [*CASES, *NOT_HERE] == [f"{kind}{n}" for kind, last in counts.items() for n in range(1, last + 1)]


@pytest.mark.parametrize("case", CASES)
def test_every_case_has_a_test(case: str) -> None:
    assert case in marked()


def test_every_marked_id_is_in_the_table() -> None:
    assert set(marked()) <= set(CASES)
