"""systemd's journal, spoken to natively: one datagram a line, with fields that journalctl can be asked for.

Source: systemd.io/JOURNAL_NATIVE_PROTOCOL. A journal that is slow is waited for once, shortly; from then on lines that
find no room are lost, counted, and told of with the next one that does.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Mapping
from typing import IO, Any

SOCKET = "/run/systemd/journal/socket"
MOST_FIELDS = 32
MOST_OCTETS = 4096
"""Of one field."""
MOST_MESSAGE = 32768
"""Octets of the message itself: tracebacks are long. All of a line stays below a socket's send buffer (208 KiB)."""
PATIENCE_US = 50_000
"""A burst fills the socket's queue (10 to 512 lines); the journal empties it in microseconds."""


def reads(stream: IO[Any]) -> bool:
    """Whether the journal reads this stream: JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return named == f"{found.st_dev}:{found.st_ino}"


class Journal:
    """The journal's socket; may be used from any thread. lost: lines it did not take."""

    def __init__(self, path: str = SOCKET) -> None:
        """Raises OSError where there is no way to make a socket."""
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", 0, PATIENCE_US))
        self._lock = threading.Lock()
        self._patient = True
        self._untold = 0
        self.lost = 0

    def send(self, fields: Mapping[str, str]) -> bool:
        """Hand over one line. False where nobody listens; a line that finds no room is lost and counted."""
        with self._lock:
            told = self._untold
            flags = 0 if self._patient else socket.MSG_DONTWAIT
        try:
            more = {"GATEWAYD_LINES_LOST": str(told)} if told else {}
            # Not connected: a journal that was restarted is found again by its name.
            self._socket.sendto(datagram({**fields, **more}), flags, self._path)
        except BlockingIOError:
            with self._lock:
                self._patient = False
                self.lost += 1
                self._untold += 1
            return True
        except OSError:
            return False
        with self._lock:
            self._patient = True
            self._untold -= told
        return True

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


def datagram(fields: Mapping[str, str]) -> bytes:
    """The fields in the journal's own form; what is too long is cut, what are too many is left out."""
    parts = []
    for key, value in list(fields.items())[:MOST_FIELDS]:
        most = MOST_MESSAGE if key == "MESSAGE" else MOST_OCTETS
        data = value.encode(errors="replace")
        if len(data) > most:
            data = data[: most - 3].decode(errors="ignore").encode() + "…".encode()
        name = key.encode("ascii")
        if b"\n" in data:
            parts.append(name + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name + b"=" + data + b"\n")
    return b"".join(parts)
