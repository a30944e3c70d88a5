"""Room on the disk itself for commands, audit and alarms: a file that is given up when the disk is full."""

from __future__ import annotations

import os
from pathlib import Path

NAME = "journal.reserve"
MIN_SIZE = 64 * 1024


class Ballast:
    """The reserve file; `size` octets, allocated for real (not sparse): what was asked for, less on a small disk."""

    def __init__(self, directory: Path, size: int) -> None:
        self._path = directory / NAME
        stat = os.statvfs(directory)
        free = stat.f_bavail * stat.f_frsize
        if self._path.exists():
            free += self._path.stat().st_size
        self.size = max(min(size, free // 10), MIN_SIZE)
        self.present = False

    def restore(self) -> bool:
        """Allocate it (again); False where the disk has no room for it."""
        if self.present:
            return True
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o640)
        except OSError:
            return False
        try:
            os.posix_fallocate(fd, 0, self.size)
            self.present = True
        except OSError:
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)
        return self.present

    def release(self) -> bool:
        """Give its room to the disk; True where there was any to give."""
        if not self.present:
            return False
        self.present = False
        self._path.unlink(missing_ok=True)
        return True
