"""What could not be shown here is said at the end of the run, and not only counted."""

from __future__ import annotations

import os

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.geteuid() != 0:
        terminalreporter.section("the unit's restrictions")
        terminalreporter.line("not shown: confining a process needs root; sudo make test shows it, and CI does")
