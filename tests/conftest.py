"""What every run of the tests has: the table of the cases of control at its end; no time limits of Hypothesis."""

import signal

from hypothesis import HealthCheck, settings

from tests.cases65.report import pytest_collection_modifyitems, pytest_terminal_summary

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary"]

# A busy machine is no failure of the code.
settings.register_profile("gatewayd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gatewayd")

# A shell without job control starts what stands before an `&` with SIGINT ignored, and children inherit that: what the
# tests end by Ctrl-C would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
