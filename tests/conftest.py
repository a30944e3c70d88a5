"""What every run of the tests has: the table of the cases of control at its end."""

from tests.cases65.report import pytest_collection_modifyitems, pytest_terminal_summary

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary"]
