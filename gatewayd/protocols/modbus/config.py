"""`[device.modbus]` and the Modbus columns of a point list: checked and planned, without opening anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gatewayd.points.mapping import to_raw
from gatewayd.points.types import ControlMode, Kind, PointSpec
from gatewayd.problems import shown
from gatewayd.protocols.device import Device, Mistake
from gatewayd.protocols.modbus import address as addresses
from gatewayd.protocols.modbus.address import Address, AddressError
from gatewayd.protocols.modbus.command import COMMAND_FORM, Command, CommandError, Defaults, parse_command, parse_guard
from gatewayd.protocols.modbus.pdu import exception_name
from gatewayd.protocols.modbus.plan import Block, Field, Limits
from gatewayd.protocols.modbus.plan import plan as plan_blocks
from gatewayd.protocols.modbus.program import RefusedError
from gatewayd.protocols.modbus.settings import is_rtu, octet_s, quiet_s
from gatewayd.protocols.modbus.values import ORDERS

DEFAULT_PORT = 502
NO_SPECIAL_UNITS = range(1, 248)
"""Units of a serial line; 0 is broadcast, 248 to 255 are reserved."""
RTU_OVERHEAD, TCP_OVERHEAD = 3, 7
"""Octets of a frame around its PDU."""
NAMES_SHOWN = 4


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[device.modbus]`.

    unit:              unit identifier (slave address)
    poll_s:            everything is read once in so many seconds, on a fixed schedule
    timeout_s:         answer to one request, without the time octets take on a serial line
    connect_timeout_s: name, TCP and TLS together, or opening the serial port
    missed_polls:      polls without an answer until points are comm-lost; when nothing at all was answered the link is
                       lost
    read_retries:      a read without a usable answer is asked again so many times within its poll; a write never is
    max_gap:           registers between two points read in vain rather than asked for in a second request; 16 times
                       as many coils or discrete inputs
    max_registers, max_bits: what one request may ask for, for devices that give less than the standard's 125 and 2000
    pause_ms:          silence before each request
    order:             octets and words of values of several registers, where the address does not say
    sentinels:         SunSpec's values for "not implemented" (u16 FFFF, i16 8000, …) make a point invalid
    write_multiple:    write with functions 15 and 16 where 5 and 6 would do, for devices that know no others
    one_connection:    TCP: share one connection with all devices of the same host and port that say so too
    echo:              the serial adapter hears what it sends (two wires)
    """

    unit: Annotated[int, Meta(ge=0, le=255)] = 1
    poll_s: Annotated[float, Meta(ge=0.02, le=86400)] = 1.0
    timeout_s: Annotated[float, Meta(ge=0.02, le=60)] = 1.0
    connect_timeout_s: Annotated[float, Meta(ge=0.1, le=120)] = 5.0
    missed_polls: Annotated[int, Meta(ge=1, le=100)] = 3
    read_retries: Annotated[int, Meta(ge=0, le=5)] = 0
    max_gap: Annotated[int, Meta(ge=0, le=124)] = 8
    max_registers: Annotated[int, Meta(ge=1, le=125)] = 125
    max_bits: Annotated[int, Meta(ge=1, le=2000)] = 2000
    pause_ms: Annotated[float, Meta(ge=0, le=10_000)] = 0.0
    order: Literal["abcd", "badc", "cdab", "dcba"] = "abcd"
    sentinels: bool = False
    write_multiple: bool = False
    one_connection: bool = False
    echo: bool = False

    @property
    def limits(self) -> Limits:
        """What one read may ask for."""
        return Limits(self.max_gap, self.max_registers, self.max_bits)

    @property
    def defaults(self) -> Defaults:
        """What commands take from here."""
        return Defaults(ORDERS[self.order], self.write_multiple)


def options(device: Device) -> Options:
    """The typed options of a checked device."""
    return msgspec.convert(device.options, Options)


def blocks(device: Device, read: Options) -> list[Block]:
    """The requests of one poll of a checked device."""
    order = ORDERS[read.order]
    fields = (Field(point.row, addresses.parse(point.address, order)) for point in device.points if point.address)
    return plan_blocks(fields, read.limits)


def commands(device: Device, read: Options) -> dict[int, Command]:
    """The commands of a checked device by row."""
    return {point.row: _command(point, read) for point in device.points if point.control is not ControlMode.NONE}


def _command(point: PointSpec, read: Options) -> Command:
    command = parse_command(point.command, point.kind, readback=point.readback, defaults=read.defaults)
    return command.guarded(parse_guard(point.guard, read.defaults.order)) if point.guard else command


# ---- check


def check(device: Device) -> list[Mistake]:
    """Every mistake in addresses, commands and options."""
    read = options(device)
    found = list(_check_options(device, read))
    places: dict[str, Address] = {}
    written: dict[int, tuple[PointSpec, Command]] = {}
    for point in device.points:
        if point.address:  # a double made of two contacts has none of its own
            try:
                places[point.name] = _address(point, read)
            except AddressError as error:
                found.append(Mistake(point, "address", str(error)))
        if point.control is not ControlMode.NONE:
            found += _check_command(point, read, written)
    found += _check_overlaps(written)
    found += _check_feedback(written, places)
    return found


def _check_options(device: Device, read: Options) -> Iterator[Mistake]:
    if is_rtu(device) and read.unit not in NO_SPECIAL_UNITS:
        yield Mistake(None, "unit", f"found {read.unit}; 1 to 247 are allowed on RTU (0 is broadcast, never answered)")
    if device.serial is not None and not device.serial.port.startswith("/"):
        yield Mistake(None, "serial.port", f"found {shown(device.serial.port)}; a path such as /dev/ttyS1 is allowed")
    if device.serial is not None and read.one_connection:
        yield Mistake(None, "one_connection", "means nothing on a serial line, which is always shared")
    if read.echo and device.serial is None:
        yield Mistake(None, "echo", "means nothing here; only with serial")
    if device.tls is not None and bool(device.tls.cert_file) != bool(device.tls.key_file):
        yield Mistake(None, "tls", "found one of cert_file and key_file; both or neither are allowed")


def _address(point: PointSpec, read: Options) -> Address:
    address = addresses.parse(point.address, ORDERS[read.order])
    if message := addresses.misfit(address, point.kind):
        raise AddressError(message)
    if address.type is not None and address.size > read.max_registers:
        raise AddressError(
            f"found {address}, {address.size} registers; max_registers = {read.max_registers} allows fewer at once"
        )
    return address


def _check_command(point: PointSpec, read: Options, written: dict[int, tuple[PointSpec, Command]]) -> Iterator[Mistake]:
    try:
        command = parse_command(point.command, point.kind, readback=point.readback, defaults=read.defaults)
    except (CommandError, AddressError) as error:
        hint = "" if " allowed" in str(error) else f"; {COMMAND_FORM}"
        yield Mistake(point, "command", f"{error}{hint}")
    else:
        written[point.row] = point, command
        yield from _check_limits(point, command)
    if point.guard:
        try:
            parse_guard(point.guard, ORDERS[read.order])
        except (CommandError, AddressError) as error:
            yield Mistake(point, "guard", str(error))


def _check_limits(point: PointSpec, command: Command) -> Iterator[Mistake]:
    """`min` and `max` must be values that the register can hold at all."""
    if command.output.codes is not None or point.kind is Kind.STRING:
        return
    for column, limit in (("min", point.min), ("max", point.max)):
        if limit is None:
            continue
        try:
            command.output.writes(to_raw(point, limit))
        except (RefusedError, ValueError) as error:
            yield Mistake(point, column, f"found {limit:g}, which cannot be written ({error})")


def _check_overlaps(written: dict[int, tuple[PointSpec, Command]]) -> Iterator[Mistake]:
    """One output, one point: locks are by point. Codes of several functions in one register are the exception."""
    earlier: list[tuple[PointSpec, Address, bool]] = []
    for point, command in written.values():
        coded = command.output.codes is not None
        for address in command.output.addresses:
            for other, taken, other_coded in earlier:
                if not address.overlaps(taken):
                    continue
                same = (address.start, address.size) == (taken.start, taken.size)
                if same and coded and other_coded and address.type is not None:
                    continue
                message = f"found {address}, which {other.name} writes too ({taken}); one point commands an output"
                yield Mistake(point, "command", message)
                break
        earlier += [(point, address, coded) for address in command.output.addresses]


def _check_feedback(written: dict[int, tuple[PointSpec, Command]], places: dict[str, Address]) -> Iterator[Mistake]:
    """The register or coil a switch is commanded with only mirrors the command, and proves nothing."""
    for point, command in written.values():
        proof = places.get(point.feedback)
        if proof is None or command.output.codes is None:
            continue
        if proof.table is addresses.Table.CO or any(proof.overlaps(target) for target in command.output.addresses):
            message = f"{point.feedback} reads {proof}, an output that follows the command and proves nothing"
            yield Mistake(point, "feedback", f"{message}; name a point that reads the switch itself, or none")


# ---- the plan


def plan(device: Device) -> list[str]:
    """Every request of one poll with its registers and points, and what a poll costs."""
    read = options(device)
    names = {point.row: point.name for point in device.points}
    planned = blocks(device, read)
    lines, octets, seconds = [], 0, 0.0
    for block in planned:
        request = block.request()
        overhead = RTU_OVERHEAD if is_rtu(device) else TCP_OVERHEAD
        size = len(request.pdu) + request.answer + 2 * overhead
        octets += size
        line = f"read {block} (function {request.function}, {_counted(block)}): {_names(block, names)}"
        if device.serial is not None:
            taken = _seconds_on_line(device, size)
            seconds += taken
            line += f"; {size} octets, {taken * 1000:.0f} ms"
        lines.append(line)
    lines.append(_total(device, read, len(planned), octets, seconds))
    return lines


def _counted(block: Block) -> str:
    what = addresses.NAMES[block.table]
    return f"{block.size} {what}{'s'[: block.size > 1]}"


def _names(block: Block, names: dict[int, str]) -> str:
    rows = [names[field.row] for field in block.fields]
    if len(rows) <= NAMES_SHOWN:
        return ", ".join(rows)
    return f"{', '.join(rows[: NAMES_SHOWN - 1])} and {len(rows) - NAMES_SHOWN + 1} more"


def _seconds_on_line(device: Device, octets: int) -> float:
    """Octets and the silence before both frames, without the device's own thinking."""
    assert device.serial is not None
    return octets * octet_s(device.serial) + 2 * quiet_s(device.serial)


def _total(device: Device, read: Options, requests: int, octets: int, seconds: float) -> str:
    plural = "s"[: requests != 1]
    line = f"in all {requests} request{plural}, {octets} octets every {read.poll_s:g} s"
    if device.serial is None:
        return line
    line += f", {seconds * 1000:.0f} ms at {device.serial.baud} baud without the device's own delays"
    share = seconds / read.poll_s
    if share > 1:
        return f"{line}: more than poll_s, polls will be skipped"
    return f"{line}: {share:.0%} of the line"


def own_feedback(device: Device) -> frozenset[int]:
    """None: a Modbus output only mirrors what was written; a setting may name its own point as its feedback."""
    del device
    return frozenset()


def answer_s(device: Device) -> float:
    """The write and its read-back, each after the pause the device needs, after at most 1 s in which the turn comes."""
    read = options(device)
    return 1.0 + 2 * (read.timeout_s + read.pause_ms / 1000)


def explain_native(point: PointSpec, native: int) -> list[str]:
    """The exception the point's last read was answered with; empty where there was none."""
    del point
    return [f"exception {native:02X} {exception_name(native)}"] if native else []


def needs_select(device: Device) -> frozenset[int]:
    """None: Modbus has no select, the gateway holds all."""
    del device
    return frozenset()
