"""The real worker, but for its patience: it connects again at once, so that a liar gets its chances. A program."""

from __future__ import annotations

import itertools
import sys

from gatewayd.protocols import supervise, worker

PAUSE_S = 0.02

if __name__ == "__main__":
    assert supervise.keep_running.__kwdefaults__ is not None
    supervise.keep_running.__kwdefaults__["pauses"] = lambda: itertools.repeat(PAUSE_S)
    sys.exit(worker.main())
