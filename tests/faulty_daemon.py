"""`gatewayd run` with a fault that a test brings on: SIGUSR1 hangs the loop, SIGUSR2 ends the journal's thread.

python -m tests.faulty_daemon CONFIG
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

from gatewayd import daemon, log
from gatewayd.store.writer import Writer


def main() -> int:
    log.configure("info")
    faulty = False
    cycle = Writer._cycle

    def hang(*_: Any) -> None:
        time.sleep(3600)

    def break_journal(*_: Any) -> None:
        nonlocal faulty
        faulty = True

    def maybe_broken(self: Writer) -> None:
        if faulty:
            raise SystemExit("on purpose")
        cycle(self)

    Writer._cycle = maybe_broken  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, hang)
    signal.signal(signal.SIGUSR2, break_journal)
    return asyncio.run(daemon.run(Path(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
