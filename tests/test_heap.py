"""What asyncio asks for with each receive comes out of the heap, not from the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

RECEIVES = 500
PROGRAM = f"""
import resource, socket, sys
from gatewayd import heap
if not heap.keep():
    sys.exit("no mallopt")
ours, theirs = socket.socketpair()
def receive():
    theirs.send(b"x")
    ours.recv(256 * 1024)
receive()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({RECEIVES}):
    receive()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults() -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    if "no mallopt" in done.stderr:
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_receiving_maps_nothing_afresh() -> None:
    assert page_faults() < RECEIVES / 10
