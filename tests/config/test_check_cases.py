"""Each folder of tests/cases: a configuration, and the exact output of `gatewayd check` for it."""

from pathlib import Path

import pytest

from gatewayd.engineering.report import check_text

CASES = sorted(path.parent for path in (Path(__file__).parent.parent / "cases").glob("*/gatewayd.toml"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_check_says_exactly_what_is_expected(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(case)
    text, _ = check_text(Path("gatewayd.toml"))
    assert text == (case / "expected.txt").read_text(encoding="utf-8").rstrip("\n")


def test_there_are_cases() -> None:
    assert len(CASES) >= 9
