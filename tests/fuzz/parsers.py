"""Every parser of octets that somebody else wrote: a target each, with the exceptions it may raise. Pure.

A target returns nothing; it raises where the parser broke its promise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from gatewayd import certificates
from gatewayd.config import Config, ConfigError, load
from gatewayd.control import identity, keys
from gatewayd.control.types import Request
from gatewayd.mqtt import packets, requests
from gatewayd.mqtt.topics import RequestTopic, Topics
from gatewayd.points.expressions import ExpressionError, Operand, compile_expression
from gatewayd.points.pointlist import read_points
from gatewayd.protocols import wire
from gatewayd.protocols.dnp3 import address as dnp3_address
from gatewayd.protocols.dnp3 import command as dnp3_command
from gatewayd.protocols.dnp3 import objects, repeats
from gatewayd.protocols.dnp3.frames import Splitter, apdu
from gatewayd.protocols.iec61850 import address as iec61850_address
from gatewayd.protocols.modbus import address as modbus_address
from gatewayd.protocols.modbus import pdu
from gatewayd.protocols.modbus.framing import MOST_LEFT_OVER, BrokenStreamError, Framing, Mbap, Rtu

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
_TOPICS = Topics("gw/test")
_WHERE = RequestTopic("cmd", "alice", "select")
_NAMES = ("A", "A/B", "FDR12/CB/POS")
MOST_KEPT = 1 << 20
"""Octets a parser of streams may keep of what is not complete, for the frames of these tests."""


def target(function: Target) -> Target:
    """Register it under its name."""
    TARGETS[function.__name__] = function
    return function


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


# ---- MQTT


@target
def command(data: bytes) -> None:
    """A command, by any topic: a Request with or without `bad`. Never raises."""
    topic, _, payload = data.partition(b"\n")
    for name in (f"gw/test/{_text(topic)}", "gw/test/cmd/alice/select", "gw/test/cmd/alice/operate"):
        found = requests.decode(_TOPICS, name, payload)
        assert found is None or isinstance(found, Request)
        assert found is None or len(found.raw_payload) <= requests.MAX_PAYLOAD + 1


@target
def question(data: bytes) -> None:
    """Interrogations, replay requests, acknowledgements, questions. None of them ever raises."""
    for decode in (
        requests.decode_interrogate,
        requests.decode_replay,
        requests.decode_ack,
        requests.decode_ask,
    ):
        found = decode(_WHERE, data)
        assert isinstance(found.bad, str)


@target
def timestamp(data: bytes) -> None:
    """RFC 3339, or a ValueError."""
    try:
        assert isinstance(requests.parse_time(_text(data)), int)
    except ValueError:
        pass


@target
def puback(data: bytes) -> None:
    """The one MQTT packet we read ourselves."""
    found = packets.puback(data)
    assert found is None or 0 <= found.packet_id <= 0xFFFF


@target
def signature(data: bytes) -> None:
    """A signature is right or it is not. Never raises."""
    key, _, rest = data.partition(b"\n")
    assert keys.verified(key[:32].ljust(32, b"\1"), "gw/test/cmd/alice/select", rest, _text(rest)) is False
    try:
        assert len(keys.public_key(_text(data))) == 32
    except ValueError:
        pass


# ---- files


@target
def csv_points(data: bytes) -> None:
    """A point list as CSV: points, problems, or both. Never raises."""
    _points(data, "points.csv")


@target
def xlsx_points(data: bytes) -> None:
    """A point list as a spreadsheet. Never raises."""
    _points(data, "points.xlsx")


def _points(data: bytes, name: str) -> None:
    found = read_points(Path(name), device="D", data=data)
    for problem in found.problems:
        assert problem.line >= 1
        assert problem.message.isprintable()


@target
def configuration(data: bytes) -> None:
    """gatewayd.toml: a Config, or a ConfigError with every mistake in its place."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gatewayd.toml"
        path.write_bytes(data)
        for name in ("fdr12", "bay1", "mtr3", "station"):
            (Path(folder) / f"{name}.csv").write_bytes(b"point,kind,address\n")
        try:
            assert isinstance(load(path), Config)
        except ConfigError as error:
            _said(error)


@target
def rights(data: bytes) -> None:
    """The rights file: rights, or a ConfigError."""
    try:
        identity.parse("rights.toml", data)
    except ConfigError as error:
        _said(error)


def _said(error: ConfigError) -> None:
    assert error.mistakes
    assert all(mistake.line >= 1 and mistake.message.isprintable() for mistake in error.mistakes)


@target
def certificate(data: bytes) -> None:
    """Certificates, keys, revocation lists: findings. Never raises."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        named = [certificates.Named("x", use, Path(file.name)) for use in ("ca", "cert", "key", "crl")]
        assert certificates.examine(named)


@target
def expression(data: bytes) -> None:
    """An interlock or a derived point: compiled, or an ExpressionError; then evaluated, with anything."""
    try:
        compiled = compile_expression(_text(data), _NAMES)
    except ExpressionError:
        return
    for value in (True, 0, -1.5, 1e308, 1 << 62, "text", None):
        operand = Operand(value, 0, 1)
        assert compiled.passes(lambda _, operand=operand: operand) in (True, False, None)  # type: ignore[misc]
        compiled.evaluate(lambda _, operand=operand: operand)  # type: ignore[misc]
    assert compiled.passes(lambda _: None) is not True, "what is not there permits nothing"


@target
def address(data: bytes) -> None:
    """Addresses and commands of the three protocols: parsed, or an AddressError."""
    text = _text(data)
    for parse, error in (
        (dnp3_address.parse, dnp3_address.AddressError),
        (dnp3_command.parse_command, dnp3_address.AddressError),
        (iec61850_address.parse, iec61850_address.AddressError),
        (iec61850_address.parse_command, iec61850_address.AddressError),
        (iec61850_address.parse_block, iec61850_address.AddressError),
        (iec61850_address.split_item, iec61850_address.AddressError),
        (modbus_address.parse, modbus_address.AddressError),
        (modbus_address.parse_place, modbus_address.AddressError),
    ):
        try:
            parse(text)  # type: ignore[operator]
        except error:
            pass


# ---- devices, and our own workers


@target
def modbus_tcp(data: bytes) -> None:
    """MBAP: an answer, a BadAnswer, or a BrokenStreamError that ends the connection."""
    _modbus(Mbap(0), data)


@target
def modbus_rtu(data: bytes) -> None:
    """RTU, with and without the adapter's echo."""
    _modbus(Rtu(), data)
    _modbus(Rtu(echo=True), data)


def _modbus(framing: Framing, data: bytes) -> None:
    """Octets in pieces, to a read and to a write that were asked for; a write counts as done by its own echo only."""
    table = modbus_address.Table.HR
    for request in (pdu.read(table, 0, 10), pdu.write_register(7, b"\0\1")):
        framing.ask(1, request)
        try:
            for at in range(0, len(data), 7):
                framing.feed(data[at : at + 7])
                answer = framing.answer()
                if answer is None:
                    continue
                assert answer
                octets = pdu.data_of(request, answer)
                assert len(octets) == (0 if request.writes else 20)
        except (pdu.BadAnswer, pdu.ExceptionAnswer):
            pass
        except BrokenStreamError:
            return
        framing.forget()
        framing.feed(data)
        try:
            framing.discard()
        except BrokenStreamError:
            return
        kept = len(framing._buffer)  # type: ignore[attr-defined]
        assert kept <= MOST_LEFT_OVER, f"{kept} octets are kept"


@target
def modbus_pdu(data: bytes) -> None:
    """An answer to each kind of request: its data, or BadAnswer or ExceptionAnswer."""
    if not data:
        return
    table = modbus_address.Table
    for request in (
        pdu.read(table.HR, 0, 3),
        pdu.read(table.CO, 0, 9),
        pdu.write_coil(1, on=True),
        pdu.write_registers(1, b"\0\1\0\2"),
        pdu.write_coils(1, [True, False]),
    ):
        try:
            assert len(pdu.data_of(request, data)) == (0 if request.writes else request.answer - 2)
        except (pdu.BadAnswer, pdu.ExceptionAnswer):
            pass


@target
def worker_messages(data: bytes) -> None:
    """What core and worker say to each other: messages, or a BrokenStreamError that ends the worker."""
    for inbox in (wire.CoreInbox(), wire.WorkerInbox()):
        try:
            for at in range(0, len(data), 11):
                for message in inbox.messages(data[at : at + 11]):
                    assert isinstance(message, wire.Message)
        except wire.BrokenStreamError:
            pass


@target
def dnp3_frames(data: bytes) -> None:
    """What is read along on a DNP3 line: frames, the rest is garbage and counted."""
    splitter = Splitter()
    seen = 0
    for at in range(0, len(data), 13):
        for frame in splitter.feed(data[at : at + 13]):
            seen += len(frame.octets)
            part = apdu(frame)
            if part is not None:
                _objects(part.objects)
    assert seen + splitter.garbage <= len(data)
    assert len(data) - seen - splitter.garbage <= 292, "at most one frame is kept"
    _objects(data)


def _objects(data: bytes) -> None:
    for headers, _ in enumerate(objects.walk(data), 1):
        assert headers <= len(data), "every header takes octets"
    objects.not_understood(data)
    objects.without_common_time(data)


@target
def cursors(data: bytes) -> None:
    """Cursors as they come back from the disk: a mark, or none."""
    from gatewayd.points.types import Cursor
    from gatewayd.protocols.iec61850.blocks import Mark

    repeats.decode(data)
    Mark.of(Cursor("BAY1LD0/LLN0.BR.brcbST", data))
