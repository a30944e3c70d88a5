"""The rights file on disk: read at the start and whenever it changes, without a reload of the station."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from gatewayd.control import identity
from gatewayd.control.audit import Moment
from gatewayd.control.identity import Rights

log = structlog.get_logger("control")

Signature = tuple[object, ...]


class RightsFile:
    """Watches the file. note: takes an audit record."""

    def __init__(self, note: Callable[[bytes], None], moment: Callable[[], Moment]) -> None:
        self._note = note
        self._moment = moment
        self._name = ""
        self._read: Signature = ()
        self._candidate: Signature = ()
        self.rights = Rights({}, broken="the gateway is starting")

    def read(self, name: str) -> Rights:
        """Read it now. With mistakes in it nobody may command; each is logged. name: "" is no file at all."""
        before = self.rights
        self._name = name
        self._read = self._candidate = _signature(name)
        self.rights, problems = identity.load_or_refuse(name)
        for problem in problems:
            log.error("the rights file has a mistake: nobody may command", mistake=str(problem))
        if (before.sha256, before.broken) != (self.rights.sha256, self.rights.broken):
            words = identity.changes(before, self.rights)
            detail = "" if name else "there is no rights file: whoever the broker lets in may command"
            moment, known = self._moment(), self.rights
            self._note(moment.body("rights", file=name, sha256=known.sha256, changes=words[:100], detail=detail))
            if name and not problems:
                log.info("rights are in force", file=name, operators=len(self.rights.operators or {}))
        return self.rights

    def changed(self) -> bool:
        """Whether it has changed, and then not for one look: so that no half of it is read."""
        if not self._name:
            return False
        found = _signature(self._name)
        settled = found != self._read and found == self._candidate
        self._candidate = found
        return settled

    @property
    def name(self) -> str:
        """The file's name, "" where there is none."""
        return self._name


def _signature(name: str) -> Signature:
    """What changes when a file does."""
    if not name:
        return ()
    try:
        found = identity.path_of(name).stat()
    except OSError as error:
        return (error.errno,)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
