"""What a command sends: for the value that is asked for, a `Program` of requests in order. Pure.

Nothing is left to decide but by the answers: guards are read first, then a recipe's selects and verifies, then comes
the one write that commands the field, then what follows it on every path.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from gatewayd.control.reasons import Reason
from gatewayd.points.types import Value
from gatewayd.protocols.modbus import pdu
from gatewayd.protocols.modbus.address import Address
from gatewayd.protocols.modbus.pdu import Request
from gatewayd.protocols.modbus.values import UnfitError, from_octets, to_octets


class RefusedError(Exception):
    """A value this command cannot carry; nothing is sent. reason: for the reply."""

    def __init__(self, reason: Reason, why: str) -> None:
        self.reason = reason
        super().__init__(why)


class Look(NamedTuple):
    """Read a value and compare it. operator: one of = != < <= > >=."""

    address: Address
    operator: str
    value: float
    request: Request

    def holds(self, data: bytes) -> bool:
        """Whether the answer's octets satisfy it; NaN satisfies nothing."""
        found = self.found(data)
        match self.operator:
            case "=":
                return found == self.value
            case "!=":
                return found == found and found != self.value
            case "<":
                return found < self.value
            case "<=":
                return found <= self.value
            case ">":
                return found > self.value
            case _:
                return found >= self.value

    def found(self, data: bytes) -> float:
        """The value in the answer's octets."""
        address = self.address
        if address.type is None:
            return data[0] & 1
        value = from_octets(data, address.type, address.order)
        assert isinstance(value, (int, float))
        if address.bits is not None:
            low, high = address.bits
            return int(value) >> low & (1 << high - low + 1) - 1
        return value

    def missed(self, data: bytes) -> str:
        """What was found where it does not hold, for people."""
        return f"{self.address} is {self.found(data):g}; {self.operator}{self.value:g} is needed"


class Write(NamedTuple):
    """One write. readback: what is read after it and must hold the octets written."""

    address: Address
    request: Request
    readback: Request | None = None
    expected: bytes = b""

    def confirmed(self, data: bytes) -> bool:
        """Whether the octets read back are those written."""
        if self.address.type is None:
            return data[0] & 1 == self.expected[0]
        return data == self.expected


class Verify(NamedTuple):
    """Look again and again until it holds, for within_s at most."""

    look: Look
    within_s: float


class After(NamedTuple):
    """A write that follows the operating one, whatever came of it.

    delay_s: after it; repeats: the end of a pulse, the only write that may go out again
    """

    write: Write
    delay_s: float
    repeats: bool


class Program(NamedTuple):
    """Everything one command sends.

    guards:  read before anything is written
    before:  a recipe's selects and verifies
    operate: the write that commands the field
    after:   a recipe's releases, or the end of a pulse
    """

    guards: tuple[Look, ...]
    before: tuple[Write | Verify, ...]
    operate: Write
    after: tuple[After, ...]

    @property
    def written(self) -> list[Address]:
        """Everything it may write."""
        steps = [step for step in self.before if isinstance(step, Write)]
        return [write.address for write in (*steps, self.operate, *(after.write for after in self.after))]


# ---- what programs are made of


@dataclass(frozen=True, slots=True)
class Target:
    """A coil or register that is written. multiple: by function 15 or 16; readback: read it after the write."""

    address: Address
    multiple: bool
    readback: bool

    def write(self, value: Value) -> Write:
        """The write of a value: bool for a coil, else what the register's type holds. Raises RefusedError."""
        address = self.address
        if address.type is None:
            on = bool(value)
            request = pdu.write_coils(address.start, [on]) if self.multiple else pdu.write_coil(address.start, on=on)
            expected = bytes((on,))
        else:
            try:
                expected = to_octets(value, address.type, address.order)
            except UnfitError as error:
                raise RefusedError(Reason.OUT_OF_RANGE if error.too_large else Reason.BAD_REQUEST, str(error)) from None
            one = pdu.write_registers if self.multiple else pdu.write_register
            request = one(address.start, expected)
        readback = pdu.read(address.table, address.start, address.size) if self.readback else None
        return Write(address, request, readback, expected)


@dataclass(frozen=True, slots=True)
class Given:
    """A value in a recipe: a constant, one for each direction (`1|2`: open|closed), or what is commanded."""

    values: tuple[float, ...] = ()

    def of(self, value: Value) -> Value:
        """The value for what is commanded. Raises RefusedError."""
        if not self.values:
            return value
        return self.values[direction(value)] if len(self.values) == 2 else self.values[0]


@dataclass(frozen=True, slots=True)
class Output:
    """What operates.

    targets: one, or the one that opens and the one that closes; None where that direction cannot be commanded
    codes:   what is written for off and on; None: the commanded value itself
    pulse_s: on for so long, then off; 0 is no pulse
    """

    targets: tuple[Target | None, ...]
    codes: tuple[float, float] | None
    pulse_s: float = 0.0

    @property
    def addresses(self) -> list[Address]:
        """Where it writes."""
        return [target.address for target in self.targets if target]

    def writes(self, value: Value) -> tuple[Write, Write | None]:
        """The write for a value, and the one that ends its pulse. Raises RefusedError."""
        if self.codes is None:
            if isinstance(value, bool):
                raise RefusedError(Reason.BAD_REQUEST, "found true or false; a value is allowed")
            assert self.targets[0] is not None
            return self.targets[0].write(value), None
        way = direction(value)
        off, on = self.codes
        if len(self.targets) == 1 and not self.pulse_s:
            assert self.targets[0] is not None
            return self.targets[0].write(on if way else off), None
        target = self.targets[way if len(self.targets) == 2 else 0]
        if target is None or (len(self.targets) == 1 and not way):
            what = "off, open and lower" if not way else "on, closed and raise"
            raise RefusedError(Reason.UNSUPPORTED, f"{what} cannot be commanded here")
        return target.write(on), target.write(off) if self.pulse_s else None


def direction(value: Value) -> int:
    """1 for on, closed, raise; 0 for off, open, lower. Raises RefusedError."""
    if value is True or value is False:
        return int(value)
    raise RefusedError(Reason.BAD_REQUEST, f"found {value!r}; on or off (closed or open, raise or lower) is allowed")


class Step(NamedTuple):
    """One step of a recipe but its operate."""

    verb: str
    target: Target | None
    place: Address
    given: Given
    seconds: float


@dataclass(frozen=True, slots=True)
class Command:
    """One command, read and checked."""

    output: Output
    guards: tuple[Look, ...] = ()
    steps: tuple[Step, ...] = ()

    def guarded(self, guards: tuple[Look, ...]) -> Command:
        """The same with guards."""
        return replace(self, guards=guards)

    def program(self, value: Value) -> Program:
        """What is sent for a value. Raises RefusedError."""
        operate, reset = self.output.writes(value)
        before: list[Write | Verify] = []
        after: list[After] = [After(reset, self.output.pulse_s, repeats=True)] if reset else []
        for step in self.steps:
            if step.verb == "verify":
                before.append(Verify(look(step.place, "=", _number(step.given.of(value))), step.seconds))
                continue
            assert step.target is not None
            write = step.target.write(step.given.of(value))
            if step.verb == "select":
                before.append(write)
            else:
                after.append(After(write, step.seconds, repeats=False))
        return Program(self.guards, tuple(before), operate, tuple(after))


def _number(value: Value) -> float:
    if isinstance(value, (bool, int, float)):
        return value
    raise RefusedError(Reason.BAD_REQUEST, f"found {value!r}; a number is allowed")


def look(address: Address, operator: str, value: float) -> Look:
    """A look at one address."""
    return Look(address, operator, value, pdu.read(address.table, address.start, address.size))
