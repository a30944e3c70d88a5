"""A worker whose driver is the blueprint, with devices that misbehave by what their host says. A program for tests.

ok           the blueprint
crash        SIGSEGV as soon as it runs
crash-later  SIGSEGV when it is interrogated
hang         the whole process stops answering when it is interrogated (as a native call that keeps the GIL)
stubborn     a driver that does not end when it is told to
rubbish      writes no message of ours to the core when it is interrogated
fault        DeviceFault at once
slow         an operate that answers after 30 s
broken       every request raises
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping

from gatewayd.control.types import Control, Reply
from gatewayd.points.types import Cursor
from gatewayd.protocols import registry
from gatewayd.protocols.blueprint import BlueprintDriver
from gatewayd.protocols.device import Device
from gatewayd.protocols.driver import DeviceFault, Driver, Sink


class Misbehaving(BlueprintDriver):
    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.how = device.host

    async def run(self, sink: Sink, cursors: Mapping[str, Cursor]) -> None:
        if self.how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.how == "fault":
            raise DeviceFault("the cable is of the wrong colour")
        try:
            await super().run(sink, cursors)
        except asyncio.CancelledError:
            if self.how == "stubborn":
                await asyncio.sleep(60)
            raise

    async def operate(self, cmd: Control) -> Reply:
        if self.how == "slow":
            await asyncio.sleep(30)
        if self.how == "broken":
            raise RuntimeError("broken on purpose")
        return await super().operate(cmd)

    async def interrogate(self) -> None:
        if self.how == "crash-later":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.how == "hang":
            time.sleep(60)  # noqa: ASYNC251
        if self.how == "rubbish":
            os.write(int(sys.argv[sys.argv.index("--fd") + 1]), b"\x00\x00\x00\x04none")
        await super().interrogate()


def create(device: Device) -> Driver:
    return Misbehaving(device)


if __name__ == "__main__":
    registry.create = create
    from gatewayd.protocols import worker

    worker.Worker.__init__.__defaults__ = (create,)
    sys.exit(worker.main())
