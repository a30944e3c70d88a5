"""The terminal: a question that can be given up, and an end that cleans up behind itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def ask_line(question: str) -> str:
    """One line of standard input, stripped and in small letters; empty at its end. The question goes to stderr.

    Read in a thread of its own that nobody waits for: a person who does not answer holds up no end of the program.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def put(line: str) -> None:
        if not answer.done():
            answer.set_result(line)

    def read() -> None:
        # Not sys.stdin.readline: its lock, held by a thread that is left behind, breaks the end of the interpreter.
        line = b""
        while not line.endswith(b"\n") and (more := os.read(0, 256)):
            line += more
        if not loop.is_closed():
            loop.call_soon_threadsafe(put, line.decode(errors="replace"))

    print(question, end="", file=sys.stderr, flush=True)
    threading.Thread(target=read, name="question", daemon=True).start()
    return (await answer).strip().lower()


async def ended_by_sigterm(work: Awaitable[T]) -> T:
    """SIGTERM ends this work as Ctrl-C does: cancelled, so that it restores, cancels and ends what it started."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await work
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
