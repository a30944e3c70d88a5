"""Runs inside the sandbox, with the drop-in for serial ports, and does what serial drivers do to a line.

A pseudo terminal stands for the port: opened exclusively, set to speeds, drained, flushed, read with a time-out. (It
knows no parity: the C library answers EINVAL to the second attempt to set one.) One JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import threading

import serial


def main() -> int:
    ours, theirs = os.openpty()
    found: dict[str, object] = {"port": os.ttyname(theirs)}
    port = serial.Serial(os.ttyname(theirs), 9600, timeout=2, exclusive=True)
    with port:
        port.baudrate = 19200
        port.stopbits = serial.STOPBITS_TWO
        port.reset_input_buffer()
        threading.Thread(target=os.write, args=(ours, b"\x01\x03\x02")).start()
        found["read"] = port.read(3).hex()
        port.write(b"\x01\x83")
        port.flush()
        found["written"] = os.read(ours, 2).hex()
        port.timeout = 0.05
        found["silence"] = port.read(1).hex()
    os.close(ours)
    os.close(theirs)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
