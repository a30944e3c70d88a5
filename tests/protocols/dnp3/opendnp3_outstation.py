"""An opendnp3 outstation as a process of its own (it may crash), told what to do by lines of JSON on its input.

{"do": "update", "type": "DBI", "index": 0, "value": 2, "flags": 1, "time": ms}    {"do": "freeze", "index": 0}
{"do": "restart"}        answers: {"listening": port}, then {"control": ...} for every SELECT and OPERATE
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from typing import Any

import opendnp3 as dnp3

POINTS = 4


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


class Listener(dnp3.IChannelListener):  # type: ignore[misc]
    pass


class Application(dnp3.IOutstationApplication):  # type: ignore[misc]
    def SupportsWriteAbsoluteTime(self) -> bool:  # noqa: N802
        return True

    def WriteAbsoluteTime(self, timestamp: Any) -> bool:  # noqa: N802
        say(time=timestamp.msSinceEpoch)
        return True


class Commands(dnp3.ICommandHandler):  # type: ignore[misc]
    def Begin(self) -> None:  # noqa: N802
        pass

    def End(self) -> None:  # noqa: N802
        pass

    def Select(self, command: Any, index: int) -> Any:  # noqa: N802
        say(control="SELECT", index=index, type=type(command).__name__)
        return dnp3.CommandStatus.SUCCESS

    def Operate(self, command: Any, index: int, _handler: Any, _type: Any) -> Any:  # noqa: N802
        say(control="OPERATE", index=index, type=type(command).__name__)
        return dnp3.CommandStatus.LOCAL if index == 3 else dnp3.CommandStatus.SUCCESS


def measured(kind: str, value: Any, flags: int, ms: int) -> Any:
    at = dnp3.DNPTime(ms)
    match kind:
        case "BI":
            return dnp3.Binary(bool(value), dnp3.Flags(flags), at)
        case "AI":
            return dnp3.Analog(float(value), dnp3.Flags(flags), at)
        case "CT":
            return dnp3.Counter(int(value), dnp3.Flags(flags), at)
        case "DBI":
            made = dnp3.DoubleBitBinary(dnp3.DoubleBit(value))
            made.flags = dnp3.Flags(flags | value << 6)
        case "BO":
            made = dnp3.BinaryOutputStatus(bool(value))
            made.flags = dnp3.Flags(flags | (0x80 if value else 0))
        case "AO":
            made = dnp3.AnalogOutputStatus(float(value))
            made.flags = dnp3.Flags(flags)
        case _:
            raise ValueError(kind)
    made.time = at
    return made


def main(port: int) -> None:
    if not port:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    manager = dnp3.DNP3Manager(2)
    endpoint = dnp3.IPEndpoint("127.0.0.1", port)
    listener, application, commands = Listener(), Application(), Commands()
    channel = manager.AddTCPServer("s", dnp3.levels.NOTHING, dnp3.ServerAcceptMode.CloseExisting, endpoint, listener)
    config = dnp3.OutstationStackConfig(dnp3.DatabaseConfig(POINTS))
    config.outstation.eventBufferConfig = dnp3.EventBufferConfig.AllTypes(50)
    config.outstation.params.allowUnsolicited = True
    config.link.LocalAddr, config.link.RemoteAddr = 10, 1
    outstation = channel.AddOutstation("o", commands, application, config)
    outstation.Enable()
    say(listening=port)
    for line in sys.stdin:
        order = json.loads(line)
        builder = dnp3.UpdateBuilder()
        if order["do"] == "update":
            value = measured(order["type"], order["value"], order.get("flags", 1), order.get("time", 0))
            builder.Update(value, order["index"], dnp3.EventMode.Force)
        elif order["do"] == "freeze":
            builder.FreezeCounter(order["index"], False, dnp3.EventMode.Force)
        elif order["do"] == "restart":
            outstation.SetRestartIIN()
        outstation.Apply(builder.Build())
    os._exit(0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
