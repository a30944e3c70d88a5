"""A simulated device as a program of its own: `python -m simulators.<device> --host --port --seed`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Serving(Protocol):
    """A device that listens."""

    @property
    def port(self) -> int:
        """The TCP port it listens on."""


def run(
    arguments: list[str] | None,
    module: str,
    what: str,
    device: Callable[..., AbstractAsyncContextManager[Serving]],
    *,
    port: int,
) -> int:
    """Serve until Ctrl-C.

    what: its name and protocol; device: takes host, port and seed; port: unless another is given
    """
    parser = argparse.ArgumentParser(prog=f"python -m simulators.{module}", description=f"Simulates {what}.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=port, help="TCP port (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same measurements (default: %(default)s)")
    given = parser.parse_args(arguments)

    async def serve() -> None:
        async with device(host=given.host, port=given.port, seed=given.seed) as served:
            print(f"{what} on {given.host} port {served.port}", flush=True)
            await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
    return 0
