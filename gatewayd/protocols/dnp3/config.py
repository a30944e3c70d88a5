"""`[device.dnp3]` and the DNP3 columns of a point list: checked, without opening anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gatewayd.points.types import ControlMode, Kind, PointSpec
from gatewayd.problems import listed
from gatewayd.protocols.device import Device, Mistake
from gatewayd.protocols.dnp3 import quality
from gatewayd.protocols.dnp3.address import TYPES, Address, AddressError, parse
from gatewayd.protocols.dnp3.command import Command, CrobCommand, parse_command

DEFAULT_PORT = 20000
HIGHEST_ADDRESS = 65519
"""Addresses above are reserved, three of them broadcast to every outstation."""

StationAddress = Annotated[int, Meta(ge=0, le=HIGHEST_ADDRESS)]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[device.dnp3]`.

    local_address:      link address of the gateway (master)
    remote_address:     link address of the outstation
    unsolicited:        the outstation may report by itself; off is told to it, and it is never asked to
    event_poll_s:       reading of classes 1, 2 and 3; 0 is none, for outstations that report by themselves
    integrity_poll_s:   reading of everything, classes 1, 2, 3 and 0; 0 is only after each connect, restart and overflow
    time_sync:          how the outstation gets the time where it asks for it: `lan`, `non-lan` (serial lines), `none`
    response_timeout_s: answer to one request; two in a row without any end the connection
    connect_timeout_s:  name, TCP and TLS together
    keepalive_s:        a link status request when the outstation has said nothing for so long
    event_times:        ask for event variations with time where the outstation sends events without
    control_index_octets: octets of an index in a command; some outstations understand only 1
    """

    local_address: StationAddress = 1
    remote_address: StationAddress = 10
    unsolicited: bool = True
    event_poll_s: Annotated[float, Meta(ge=0, le=86400)] = 1.0
    integrity_poll_s: Annotated[float, Meta(ge=0, le=604800)] = 3600.0
    time_sync: Literal["lan", "non-lan", "none"] = "lan"
    response_timeout_s: Annotated[float, Meta(ge=0.1, le=120)] = 5.0
    connect_timeout_s: Annotated[float, Meta(ge=0.1, le=120)] = 10.0
    keepalive_s: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    event_times: bool = True
    control_index_octets: Literal[1, 2] = 2


def options(device: Device) -> Options:
    """The typed options of a checked device."""
    return msgspec.convert(device.options, Options)


def check(device: Device) -> list[Mistake]:
    """Every mistake in addresses, commands and options."""
    seen: dict[Address, str] = {}
    points = (mistake for point in device.points for mistake in _check_point(point, seen))
    return [*_check_options(device), *points]


def _check_options(device: Device) -> Iterator[Mistake]:
    read = options(device)
    if read.local_address == read.remote_address:
        yield Mistake(
            None, "remote_address", f"found {read.remote_address} for both; gateway and outstation need different ones"
        )
    if not read.unsolicited and not read.event_poll_s:
        found = "found 0 together with unsolicited = false; events would never be read"
        yield Mistake(None, "event_poll_s", f"{found}; a period in seconds, or unsolicited = true")
    if read.event_poll_s and read.event_poll_s < 0.05:
        yield Mistake(None, "event_poll_s", f"found {read.event_poll_s:g}; 0 (none) or 0.05 to 86400 is allowed")
    if read.integrity_poll_s and read.integrity_poll_s < 1:
        yield Mistake(None, "integrity_poll_s", f"found {read.integrity_poll_s:g}; 0 or 1 to 604800 is allowed")
    if device.tls is not None and bool(device.tls.cert_file) != bool(device.tls.key_file):
        yield Mistake(None, "tls", "found one of cert_file and key_file; both or neither are allowed")


def _check_point(point: PointSpec, seen: dict[Address, str]) -> Iterator[Mistake]:
    if point.address:  # a double made of two contacts has none of its own
        yield from _check_address(point, seen)
    if point.control is not ControlMode.NONE:
        yield from _check_command(point)


def _check_address(point: PointSpec, seen: dict[Address, str]) -> Iterator[Mistake]:
    try:
        address = parse(point.address)
    except AddressError as error:
        yield Mistake(point, "address", str(error))
        return
    kinds = TYPES[address.type].kinds
    if point.kind not in kinds:
        what = f"found kind {point.kind} for {address}, a{_n(address)} {TYPES[address.type].words}"
        yield Mistake(point, "address", f"{what}; {listed(kinds)} can take its value{_better(point.kind, address)}")
    if address in seen:
        yield Mistake(point, "address", f"found {address} a second time, first at {seen[address]}; once is allowed")
    seen.setdefault(address, point.name)


def _n(address: Address) -> str:
    return "n" if TYPES[address.type].words[0] in "ao" else ""


def _better(kind: Kind, address: Address) -> str:
    if kind is Kind.DOUBLE and address.type == "BI":
        return f"; did you mean DBI:{address.index}, or two contacts such as BI:3|BI:4?"
    if kind is Kind.BINARY and address.type == "DBI":
        return "; did you mean kind double?"
    return ""


def _check_command(point: PointSpec) -> Iterator[Mistake]:
    try:
        command = parse_command(point.command)
    except AddressError as error:
        yield Mistake(point, "command", str(error))
        return
    if not command.fits(point.kind):
        allowed = _fitting(command)
        yield Mistake(point, "command", f"found {point.command} for a point of kind {point.kind}; {allowed}")


def _fitting(command: Command) -> str:
    if isinstance(command, CrobCommand):
        return "binary and double can have it; a number goes out as AO:1 i16, raise and lower as CROB:6 raise-lower"
    return "analog, counter and enum can have it; a two-state output is CROB:2 trip-close or CROB:4 latch"


def plan(device: Device) -> list[str]:
    """How the device will be read, one line a request or scan."""
    read = options(device)
    counts: dict[str, int] = {}
    for point in device.points:
        if point.address:
            kind = parse(point.address).type
            counts[kind] = counts.get(kind, 0) + 1
    points = listed(f"{count} {kind}" for kind, count in counts.items()).replace(" or ", " and ") if counts else "none"
    every = f", then every {read.integrity_poll_s:g} s" if read.integrity_poll_s else ""
    integrity = f"integrity poll, classes 1, 2, 3 and 0: after connect, device restart and overflow{every}"
    lines = [
        f"outstation {read.remote_address}, master {read.local_address}; points: {points}",
        f"{integrity}; points that are not in class 0 are read by their type",
    ]
    if read.event_poll_s:
        lines.append(f"event poll, classes 1, 2 and 3: every {read.event_poll_s:g} s")
    lines.append(
        "unsolicited responses: enabled for classes 1, 2 and 3"
        if read.unsolicited
        else "unsolicited responses: disabled at the device"
    )
    lines.append(
        f"time: given by the {read.time_sync} procedure when the device asks and the gateway's own clock is in step"
        if read.time_sync != "none"
        else "time: never given"
    )
    return lines


def own_feedback(device: Device) -> frozenset[int]:
    """None: the status of a DNP3 output follows the command and proves nothing."""
    del device
    return frozenset()


def answer_s(device: Device) -> float:
    """SELECT and OPERATE, each with the time of one response, after at most 1 s in which the turn comes."""
    return 1.0 + 2 * options(device).response_timeout_s


def explain_native(point: PointSpec, native: int) -> list[str]:
    """The names of the flags by the point's type; empty for octet strings and doubles of two contacts."""
    try:
        return quality.names(parse(point.address).type, native)
    except AddressError:
        return []


def needs_select(device: Device) -> frozenset[int]:
    """None: the gateway holds the select; SELECT and OPERATE go out back to back."""
    del device
    return frozenset()
