"""A target under atheris, in a process of its own: `python -m tests.fuzz.guided TARGET [libFuzzer's options]`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found, unused-ignore]  # optional: no wheel for every Python

with atheris.instrument_imports(include=["gatewayd"]):
    from tests.fuzz.parsers import TARGETS

from tests.fuzz.engine import CORPUS


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    name = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        for path in (CORPUS / name).glob("*"):
            shutil.copy(path, folder)  # what it finds on its way does not go into ours
        atheris.Setup([sys.argv[0], *sys.argv[2:], str(Path(folder))], TARGETS[name])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
