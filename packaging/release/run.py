"""Other programs, in an environment that is the same everywhere."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from release.errors import BuildError


def run(command: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Its standard output. What could make two builds differ (language, time zone, hash seed) is set.

    Raises BuildError with the program's own words.
    """
    same = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, cwd=cwd, env={**os.environ, **same, **(env or {})}, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BuildError(f"{words[0]} cannot be run: {error.strerror}; make package installs what is missing") from None
    if done.returncode != 0:
        raise BuildError(f"{' '.join(words)} ended with status {done.returncode}:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout
