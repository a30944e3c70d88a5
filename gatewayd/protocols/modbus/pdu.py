"""Requests and answers of the Modbus application protocol 1.1b3: the function codes the gateway uses. Pure.

An answer is checked against its request to the last octet: function, lengths, and the echo of a write. Whatever is
not exactly an answer is a BadAnswer; an exception of the right function is an ExceptionAnswer.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from gatewayd.protocols.modbus.address import Table

READ_COILS, READ_DISCRETE_INPUTS, READ_HOLDING_REGISTERS, READ_INPUT_REGISTERS = 1, 2, 3, 4
WRITE_SINGLE_COIL, WRITE_SINGLE_REGISTER, WRITE_MULTIPLE_COILS, WRITE_MULTIPLE_REGISTERS = 5, 6, 15, 16
READS = {
    Table.CO: READ_COILS,
    Table.DI: READ_DISCRETE_INPUTS,
    Table.HR: READ_HOLDING_REGISTERS,
    Table.IR: READ_INPUT_REGISTERS,
}
MOST_REGISTERS_READ, MOST_BITS_READ = 125, 2000
MOST_REGISTERS_WRITTEN = 123
ON, OFF = 0xFF00, 0x0000
EXCEPTION = 0x80

EXCEPTIONS = {
    0x01: "illegal-function",
    0x02: "illegal-data-address",
    0x03: "illegal-data-value",
    0x04: "server-device-failure",
    0x05: "acknowledge",
    0x06: "server-device-busy",
    0x07: "negative-acknowledge",
    0x08: "memory-parity-error",
    0x0A: "gateway-path-unavailable",
    0x0B: "gateway-target-failed-to-respond",
}
"""Names of the exception codes (1.1b3, section 7; 07 of older editions)."""


class ModbusError(Exception):
    """A request that did not get its answer; the subclasses say why."""


class NotSentError(ModbusError):
    """Nothing was sent."""


class ExpiredError(NotSentError):
    """Nothing was sent because it was too late to."""


class UnansweredError(ModbusError):
    """Sent, and no usable answer came: a write may have been carried out."""


class NoAnswer(UnansweredError):
    """Nothing came in time."""


class BadAnswer(UnansweredError):
    """Something came that is no answer to this request."""


class ConnectionLost(UnansweredError):
    """The connection ended after the request was sent."""


class ExceptionAnswer(ModbusError):
    """The device answered with an exception code."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"exception {code:02X} {exception_name(code)}")


def exception_name(code: int) -> str:
    """The standard's word for an exception code."""
    return EXCEPTIONS.get(code, "undefined-exception")


class Request(NamedTuple):
    """A request's PDU, and how many octets the PDU of its normal answer has."""

    pdu: bytes
    answer: int

    @property
    def function(self) -> int:
        """The function code."""
        return self.pdu[0]

    @property
    def writes(self) -> bool:
        """It may change something in the device."""
        return self.pdu[0] >= WRITE_SINGLE_COIL

    def __str__(self) -> str:
        first, second = struct.unpack_from(">HH", self.pdu, 1)
        return f"function {self.function} at {first} ({second})"


def read(table: Table, start: int, count: int) -> Request:
    """Read coils, discrete inputs, holding or input registers."""
    octets = (count + 7) // 8 if table.of_bits else 2 * count
    return Request(struct.pack(">BHH", READS[table], start, count), 2 + octets)


def write_coil(address: int, *, on: bool) -> Request:
    """Function 5."""
    return Request(struct.pack(">BHH", WRITE_SINGLE_COIL, address, ON if on else OFF), 5)


def write_register(address: int, octets: bytes) -> Request:
    """Function 6."""
    return Request(struct.pack(">BH2s", WRITE_SINGLE_REGISTER, address, octets), 5)


def write_coils(address: int, states: Sequence[bool]) -> Request:
    """Function 15."""
    packed = sum(1 << at for at, on in enumerate(states) if on).to_bytes((len(states) + 7) // 8, "little")
    return Request(struct.pack(">BHHB", WRITE_MULTIPLE_COILS, address, len(states), len(packed)) + packed, 5)


def write_registers(address: int, octets: bytes) -> Request:
    """Function 16."""
    count = len(octets) // 2
    return Request(struct.pack(">BHHB", WRITE_MULTIPLE_REGISTERS, address, count, len(octets)) + octets, 5)


def data_of(request: Request, answer: bytes) -> bytes:
    """What a read brought, b"" for a write. Raises ExceptionAnswer, BadAnswer.

    answer: the PDU as the framing gave it: at least one octet
    """
    function = request.function
    if answer[0] != function:
        if answer[0] == function | EXCEPTION and len(answer) == 2:
            raise ExceptionAnswer(answer[1])
        raise BadAnswer(f"{_described(answer)} came to {request}")
    if not request.writes:
        if len(answer) != request.answer or answer[1] != request.answer - 2:
            raise BadAnswer(f"{len(answer)} octets came to {request}; {request.answer} are due")
        return answer[2:]
    if answer != request.pdu[:5]:  # functions 5 and 6 repeat the request, 15 and 16 its address and quantity
        raise BadAnswer(f"the echo {answer.hex()} came to the write {request.pdu[:5].hex()}")
    return b""


def _described(answer: bytes) -> str:
    if answer[0] & EXCEPTION:
        return f"an exception of function {answer[0] & ~EXCEPTION} ({len(answer)} octets)"
    return f"an answer of function {answer[0]}"
