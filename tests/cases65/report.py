"""The table of the cases at the end of a run, with any number of processes (pytest-xdist)."""

from __future__ import annotations

import pytest

from tests.cases65.table import CASES, NOT_HERE


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test's cases go with its reports, so that the process that prints them knows."""
    for item in items:
        item.user_properties += [("case", case) for mark in item.iter_markers("case") for case in mark.args]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """`case  pass`, with how many tests said so; nothing where no case was run."""
    said: dict[str, dict[str, str]] = {}
    for word in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.stats.get(word, []):
            for key, case in getattr(report, "user_properties", ()):
                if key == "case":
                    said.setdefault(case, {})[report.nodeid] = word
    if not said:
        return
    terminalreporter.section("control cases")
    for case, text in CASES.items():
        words = list(said.get(case, {}).values())
        bad = next((word for word in ("error", "failed", "skipped") if word in words), "")
        verdict = bad.upper() or ("pass" if words else "not run")
        count = f"{len(words)} test{'s' if len(words) != 1 else ''}" if words else ""
        terminalreporter.write_line(f"{case:>4}  {verdict:8} {count:9} {text}")
    for case, text in NOT_HERE.items():
        terminalreporter.write_line(f"{case:>4}  {'-':8} {'':9} {text} (not in this product: no redundancy)")
