"""Taking a report control block: finding a free instance, resuming a buffered one, enabling it.

The order works on foreign servers: ResvTms or Resv, TrgOps and OptFlds where they lack something, EntryID, RptEna, GI.
Attributes that already say what is wanted are not written: a change of TrgOps empties a BRCB's buffer (7-2), and many
IEDs have them fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import structlog

from gatewayd.points.types import Cursor
from gatewayd.protocols.iec61850 import values
from gatewayd.protocols.iec61850.address import BlockName
from gatewayd.protocols.iec61850.connection import Connection, ConnectionLost, RequestFailed
from gatewayd.protocols.iec61850.mapping import DataSetMap, Place, data_set
from gatewayd.protocols.iec61850.reports import Assembler, OptFlds, Trigger

log = structlog.get_logger("iec61850")

MOST_INSTANCES = 99
PREASSIGNED = -1
"""ResvTms of an instance that the configuration of the IED gives to one client."""
RESERVED = "is reserved"
PATIENCE = 4
"""Associations that wait for the instance of the cursor while something still holds it, before another is taken."""

_COMMON = OptFlds.SEQUENCE | OptFlds.TIME | OptFlds.REASON | OptFlds.DATA_SET | OptFlds.CONF_REV
WANTED_UNBUFFERED = int(_COMMON)
WANTED_BUFFERED = int(_COMMON | OptFlds.OVERFLOW | OptFlds.ENTRY_ID)


class Mark(NamedTuple):
    """What a cursor keeps: the instance and its EntryID; the buffer and its EntryIDs belong to one instance."""

    instance: str
    entry_id: bytes

    @classmethod
    def of(cls, cursor: Cursor | None) -> Mark | None:
        """The mark in a stored cursor; None where there is none or it is not ours."""
        if cursor is None:
            return None
        instance, separator, entry_id = cursor.data.partition(b"\0")
        if not separator or not instance or not entry_id:
            return None
        return cls(instance.decode("utf-8", "replace"), entry_id)

    def cursor(self, name: BlockName) -> Cursor:
        """The cursor to store with the events that came with it."""
        return Cursor(str(name), self.instance.encode() + b"\0" + self.entry_id)


class Block:
    """A control block of ours on this association.

    members:      of its data set, domain and item each
    resumed:      its buffer goes on after the stored EntryID
    backlog:      it sends what its buffer holds first; interrogations found in there are of an earlier time
    interrogated: all of its data set has been read on this association
    """

    def __init__(
        self,
        name: BlockName,
        instance: str,
        attributes: dict[str, Any],
        members: Sequence[tuple[str, str]],
        map_: DataSetMap,
    ) -> None:
        self.name = name
        self.instance = instance
        self.rpt_id = str(attributes.get("RptID") or f"{name.ld}/{name.item(instance)}")
        self.conf_rev = attributes.get("ConfRev")
        self.data_set = str(attributes.get("DatSet"))
        self.members = members
        self.map = map_
        self.assembler = Assembler(name, map_)
        self.resumed = False
        self.backlog = False
        self.interrogated = False
        self.last_report = 0.0
        self.gap: str | None = None

    @property
    def doubtful(self) -> bool:
        """What it reports now may have come before: all of a buffer that could not be resumed where we were."""
        return self.gap is not None and not self.interrogated

    @property
    def item(self) -> str:
        """The MMS name of the instance."""
        return self.name.item(self.instance)


class NoBlockError(Exception):
    """The control block cannot be used; the text says why. Its points are polled."""


class Taker:
    """Takes control blocks on one association.

    places:  of all points, by which the data sets are read
    waited:  how often each block's own instance was found held, kept over associations
    """

    def __init__(
        self,
        connection: Connection,
        places: list[Place],
        *,
        reserve_s: int,
        integrity_s: float,
        waited: dict[str, int],
    ) -> None:
        self._connection = connection
        self._places = places
        self._reserve_s = reserve_s
        self._integrity_s = integrity_s
        self._waited = waited
        self._rpt_ids: set[str] = set()

    def take(self, name: BlockName, mark: Mark | None) -> Block:
        """A block of that name, reserved and configured, not yet enabled.

        Raises NoBlockError, ConnectionLost (an earlier association of ours may still hold the instance).
        """
        why: list[str] = []
        reserved: list[tuple[str, dict[str, Any]]] = []
        for instance in self._instances(name, mark):
            attributes = self._attributes(name, instance)
            if attributes is None:
                why.append(f"{instance} cannot be read")
                continue
            own = mark is not None and mark.instance == instance
            held = _held(attributes, name, own=own)
            if not held:
                try:
                    self._reserve(name, instance, attributes)
                except RequestFailed as error:
                    held = f"cannot be reserved ({error})"
            if held:
                why.append(f"{instance} {held}")
                if own:
                    self._wait_for(name, instance, held)
                if held == RESERVED and name.buffered:
                    reserved.append((instance, attributes))
                continue
            self._waited.pop(str(name), None)
            return self._configured(name, instance, attributes, mark)
        for instance, attributes in reserved:  # by us, perhaps, before a cursor was stored: only the IED knows
            try:
                self._reserve(name, instance, attributes)
            except RequestFailed:
                continue
            return self._configured(name, instance, attributes, mark)
        raise NoBlockError(f"{name}: no free instance ({'; '.join(why) or 'the IED has none of that name'})")

    def _wait_for(self, name: BlockName, instance: str, held: str) -> None:
        """Our own instance may be held by our own dead association: only it has the buffer, so give it time."""
        waited = self._waited[str(name)] = self._waited.get(str(name), 0) + 1
        if waited <= PATIENCE:
            raise ConnectionLost(f"{name}: {instance}, whose buffer is to be resumed, {held}")

    def _instances(self, name: BlockName, mark: Mark | None) -> list[str]:
        layout = self._connection.layout
        if layout(name.ld, name.item()) is not None:
            return [name.name]
        found = []
        for number in range(1, MOST_INSTANCES + 1):
            instance = f"{name.name}{number:02d}"
            if layout(name.ld, name.item(instance)) is None:
                break
            found.append(instance)
        if mark is not None and mark.instance in found:
            found.remove(mark.instance)
            found.insert(0, mark.instance)
        return found

    def _attributes(self, name: BlockName, instance: str) -> dict[str, Any] | None:
        item = name.item(instance)
        layout = self._connection.layout(name.ld, item)
        try:
            values_ = self._connection.read(name.ld, item)
        except RequestFailed as error:
            if error.timed_out:
                raise ConnectionLost(f"{name}: no answer when reading {instance}") from error
            return None
        if layout is None or not isinstance(values_, list) or len(values_) != len(layout.children):
            return None
        return dict(zip((child.name for child in layout.children), values_, strict=True))

    def _write(self, block: Block | tuple[BlockName, str], attribute: str, value: int) -> None:
        name, item = (block.name, block.item) if isinstance(block, Block) else (block[0], block[0].item(block[1]))
        self._connection.write(name.ld, f"{item}${attribute}", value)

    def _reserve(self, name: BlockName, instance: str, attributes: dict[str, Any]) -> None:
        where = (name, instance)
        if name.buffered and "ResvTms" in attributes:
            self._write(where, "ResvTms", values.integer(self._reserve_s))
        elif not name.buffered and "Resv" in attributes:
            self._write(where, "Resv", values.boolean(True))

    def _configured(self, name: BlockName, instance: str, attributes: dict[str, Any], mark: Mark | None) -> Block:
        domain, _, item = str(attributes.get("DatSet") or "").partition("/")
        if not item:
            raise NoBlockError(f"{name}: {instance} has no data set")
        try:
            members = self._connection.directory(domain, item)
        except RequestFailed as error:
            raise NoBlockError(f"{name}: its data set {domain}/{item} cannot be read ({error})") from error
        block = Block(name, instance, attributes, members, data_set(members, self._places))
        self._one_rpt_id(block)
        self._options(block, attributes)
        if mark is not None:
            block.gap = self._resume(block, attributes, mark)
            block.resumed = block.gap is None
        block.backlog = block.resumed or (name.buffered and self._from_the_oldest(block, attributes))
        return block

    def _one_rpt_id(self, block: Block) -> None:
        """Reports are told apart by RptID alone: of two blocks with the same one the second gets its own name."""
        if block.rpt_id in self._rpt_ids:
            own = f"{block.name.ld}/{block.item}"
            try:
                self._write(block, "RptID", values.text(own))
            except RequestFailed as error:
                raise NoBlockError(
                    f"{block.name}: RptID {block.rpt_id!r} is another block's too and cannot be changed ({error})"
                ) from error
            block.rpt_id = own
        self._rpt_ids.add(block.rpt_id)

    def _options(self, block: Block, attributes: dict[str, Any]) -> None:
        wanted = WANTED_BUFFERED if block.name.buffered else WANTED_UNBUFFERED
        triggers = int(Trigger.DATA_CHANGE | Trigger.QUALITY_CHANGE | Trigger.DATA_UPDATE | Trigger.INTERROGATION)
        if not block.name.buffered and self._integrity_s:
            triggers |= int(Trigger.INTEGRITY)
        self._widen(block, attributes, "OptFlds", wanted, 10)
        self._widen(block, attributes, "TrgOps", triggers, 6)
        period_ms = int(self._integrity_s * 1000)
        if not block.name.buffered and attributes.get("IntgPd") != period_ms:
            self._try(block, "IntgPd", values.unsigned(period_ms))

    def _widen(self, block: Block, attributes: dict[str, Any], name: str, wanted: int, size: int) -> None:
        there = attributes.get(name)
        now = there.value if isinstance(there, values.Bits) else 0
        if wanted & ~now:
            self._try(block, name, values.bits(wanted | now, size))

    def _try(self, block: Block, attribute: str, value: int) -> None:
        try:
            self._write(block, attribute, value)
        except RequestFailed as error:
            log.info(
                "report option kept as the IED has it", block=str(block.name), attribute=attribute, cause=str(error)
            )

    def _resume(self, block: Block, attributes: dict[str, Any], mark: Mark) -> str | None:
        """Ask for what the buffer holds after the mark; None, or why events may be missing."""
        if mark.instance != block.instance:
            return f"{block.name}: {block.instance} taken, the events since {mark.instance} are in another buffer"
        there = attributes.get("EntryID")
        if isinstance(there, bytes) and any(mark.entry_id) and not any(there):
            return f"{block.name}: the buffer of {block.instance} began anew"
        try:
            self._write(block, "EntryID", values.octets(mark.entry_id, len(mark.entry_id)))
        except RequestFailed as error:
            return f"{block.name}: EntryID {mark.entry_id.hex()} refused ({error})"
        return None

    def _from_the_oldest(self, block: Block, attributes: dict[str, Any]) -> bool:
        """Ask for all that the buffer holds: an EntryID of zeros. Without it some IEDs begin at what happens next.

        False where the buffer is empty, or the IED decides by itself.
        """
        there = attributes.get("EntryID")
        if not isinstance(there, bytes) or not any(there):
            return False
        try:
            self._write(block, "EntryID", values.octets(bytes(len(there)), len(there)))
        except RequestFailed as error:
            log.info("the IED decides what of its buffer it sends", block=str(block.name), cause=str(error))
            return False
        return True

    def enable(self, block: Block) -> None:
        """RptEna. Raises NoBlockError; ConnectionLost where nobody knows whether it is enabled."""
        try:
            self._write(block, "RptEna", values.boolean(True))
        except RequestFailed as error:
            if error.timed_out and block.last_report:
                return  # a long buffer came first, and it comes only from a block that is enabled
            if error.timed_out:
                raise ConnectionLost(f"{block.name}: no answer to RptEna of {block.instance}") from error
            self._rpt_ids.discard(block.rpt_id)
            raise NoBlockError(f"{block.name}: {block.instance} cannot be enabled ({error})") from error

    def interrogate(self, block: Block) -> bool:
        """GI; False where the IED does not do it."""
        try:
            self._write(block, "GI", values.boolean(True))
        except RequestFailed as error:
            log.warning("general interrogation refused", block=str(block.name), cause=str(error))
            return False
        return True


def _held(attributes: dict[str, Any], name: BlockName, *, own: bool) -> str:
    """Why an instance is not free, "" where it is."""
    if attributes.get("RptEna") is True:
        return "is enabled by another client"
    if not name.buffered:
        return RESERVED if attributes.get("Resv") is True else ""
    reserved = attributes.get("ResvTms", 0)
    if own or not isinstance(reserved, int) or reserved == 0:
        return ""  # our own reservation is still running
    return "is preassigned to a client" if reserved == PREASSIGNED else RESERVED
