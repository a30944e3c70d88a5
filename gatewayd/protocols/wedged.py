"""A native call that does not return: nothing of ours can end it, so the worker process ends, and is started again."""

from __future__ import annotations

import os
from typing import NoReturn

import structlog

from gatewayd.protocols.driver import LinkLost

log = structlog.get_logger("worker")

STATUS = 70
"""Exit status of a worker that gave up (EX_SOFTWARE)."""
_ends_process = False


def in_worker() -> None:
    """From now on giving up ends this process."""
    global _ends_process
    _ends_process = True


def give_up(device: str, what: str) -> NoReturn:
    """End the worker; outside of one (tests, debugging) raise LinkLost and leave the call behind."""
    log.critical("a native call does not return", device=device, call=what)
    if _ends_process:
        os._exit(STATUS)
    raise LinkLost(f"{what} does not return")
