"""`[device.iec61850]` and the IEC 61850 columns of a point list: checked, without opening anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from gatewayd.points.types import ControlMode, Kind, PointSpec
from gatewayd.protocols.device import Device, Mistake
from gatewayd.protocols.iec61850 import quality
from gatewayd.protocols.iec61850.address import Address, AddressError, parse, parse_block, parse_command

DEFAULT_PORT = 102
CHECKS = ("interlock", "synchro")
LONGEST_ORIGINATOR = 64
"""Octets of orIdent (IEC 61850-8-1)."""

VALUE_PATHS = ((), ("stVal",), ("mag",), ("mag", "f"), ("mag", "i"), ("mxVal",), ("mxVal", "f"), ("valWTr", "posVal"))
"""What may follow the controllable object in the address of the point that is its own feedback."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[device.iec61850]`.

    reports:           control blocks; the common name takes a free instance, an exact name that one
    integrity_s:       integrity reports of unbuffered blocks; 0 is none
    poll_s:            reading of points that are in no report
    timeout_s:         answer to one request; two in a row unanswered end the association
    connect_timeout_s: TCP, COTP, session, presentation and association together
    keepalive_s:       a read when nothing else was asked for so long
    reserve_s:         ResvTms of buffered blocks: how long the IED keeps the block for us while we are away
    originator:        orIdent where a command names no operator
    constant_t:        the same T in SBOw and Oper, which some IEDs demand
    ap_title, ae_qualifier: of the IED, where it insists (`1.1.1.999.1`, 12)
    """

    reports: list[str] = []
    integrity_s: Annotated[float, Meta(ge=0, le=86400)] = 60.0
    poll_s: Annotated[float, Meta(ge=0.1, le=86400)] = 5.0
    timeout_s: Annotated[float, Meta(ge=0.1, le=60)] = 3.0
    connect_timeout_s: Annotated[float, Meta(ge=0.1, le=120)] = 10.0
    keepalive_s: Annotated[float, Meta(ge=0.1, le=300)] = 10.0
    reserve_s: Annotated[int, Meta(ge=1, le=32767)] = 60
    originator: str = ""
    constant_t: bool = False
    ap_title: str = ""
    ae_qualifier: Annotated[int, Meta(ge=0, le=65535)] = 12


def options(device: Device) -> Options:
    """The typed options of a checked device."""
    return msgspec.convert(device.options, Options)


def check(device: Device) -> list[Mistake]:
    """Every mistake in addresses, commands and options."""
    return [*_check_options(device), *(mistake for point in device.points for mistake in _check_point(point))]


def _check_options(device: Device) -> Iterator[Mistake]:
    read = options(device)
    if device.serial is not None:
        yield Mistake(None, "serial", "found a serial line; IEC 61850 runs over host and port only")
    seen: set[str] = set()
    for position, name in enumerate(read.reports):
        where = f"reports.{position}"
        try:
            block = parse_block(name)
        except AddressError as error:
            yield Mistake(None, where, str(error))
            continue
        if str(block) in seen:
            yield Mistake(None, where, f"found {name!r} a second time; each control block once is allowed")
        seen.add(str(block))
    if len(read.originator.encode()) > LONGEST_ORIGINATOR:
        found = f"found {len(read.originator.encode())} octets; {LONGEST_ORIGINATOR} at most are allowed"
        yield Mistake(None, "originator", found)
    if read.ap_title and not all(part.isdigit() for part in read.ap_title.split(".")):
        yield Mistake(None, "ap_title", f"found {read.ap_title!r}; numbers with dots are allowed (1.1.1.999.1)")
    if device.tls is not None and bool(device.tls.cert_file) != bool(device.tls.key_file):
        yield Mistake(None, "tls", "found one of cert_file and key_file; both or neither are allowed")


def _check_point(point: PointSpec) -> Iterator[Mistake]:
    if point.address:  # a double made of two contacts has none of its own
        try:
            parse(point.address)
        except AddressError as error:
            yield Mistake(point, "address", str(error))
    if point.control is ControlMode.NONE:
        return
    try:
        parse_command(point.command)
    except AddressError as error:
        yield Mistake(point, "command", str(error))
    if point.kind is Kind.STRING:
        yield Mistake(point, "control", "a text cannot be commanded; binary, double, enum, analog, counter can")
    for name in point.check:
        if name not in CHECKS:
            yield Mistake(point, "check", f"found {name!r}; {' and '.join(CHECKS)} are allowed")


def plan(device: Device) -> list[str]:
    """How the device will be read, for people; which points a report covers is known only from the IED itself."""
    read = options(device)
    lines = []
    for name in read.reports:
        block = parse_block(name)
        if block.buffered:
            lines.append(f"buffered report {name}: taken up where it was left, general interrogation at the first time")
        else:
            period = f", integrity every {read.integrity_s:g} s" if read.integrity_s else ""
            lines.append(f"unbuffered report {name}: general interrogation{period}")
    objects: dict[str, int] = {}
    for point in device.points:
        if not point.address:
            continue
        address = parse(point.address)
        name = f"{address.ld}/{address.ln}.{address.path[0]}"
        objects[name] = objects.get(name, 0) + 1
    often = f"every {read.poll_s:g} s" + (" unless a data set of these reports has it" if read.reports else "")
    lines += [f"read {name} ({count} point{'s'[: count > 1]}) {often}" for name, count in objects.items()]
    return lines


def own_feedback(device: Device) -> frozenset[int]:
    """Rows with a command whose own address is the controllable object: its state proves the operation."""
    rows = set()
    for point in device.points:
        if point.control is ControlMode.NONE or not point.command or not point.address:
            continue
        state, command = parse(point.address), parse_command(point.command)
        if _is_state_of(state, command):
            rows.add(point.row)
    return frozenset(rows)


def _is_state_of(state: Address, command: Address) -> bool:
    depth = len(command.path)
    return (
        (state.ld, state.ln, state.path[:depth]) == (command.ld, command.ln, command.path)
        and state.path[depth:] in VALUE_PATHS
        and state.fc in ("", "ST", "MX")
    )


def answer_s(device: Device) -> float:
    """A select or an operate, after at most one other request."""
    return 2 * options(device).timeout_s


def explain_native(point: PointSpec, native: int) -> list[str]:
    """The names of the quality bits (7-3)."""
    del point
    return quality.names(native)


def needs_select(device: Device) -> frozenset[int]:
    """Rows whose select goes to the IED; where its control model has none the driver answers without sending."""
    return frozenset(point.row for point in device.points if point.control is ControlMode.SBO)
