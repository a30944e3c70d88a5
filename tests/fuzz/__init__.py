"""Hostile octets, to every parser of ours and to every protocol stack behind the seam.

    python -m tests.fuzz [--seconds N] [--target NAME]…        (make fuzz, FUZZ_SECONDS, FUZZ_TARGET)

A target takes octets and gives a value or a documented exception; anything else is a finding, and is written to
tests/fuzz/found/ to be looked at and, once mended, moved to tests/fuzz/corpus/<target>/, which `make test` replays.
Parsers (`parsers.py`) run under atheris where that is installed, under Hypothesis otherwise. Stacks (`stacks.py`) run
in their real worker processes against peers that lie, with good devices beside them whose data must go on.
"""
