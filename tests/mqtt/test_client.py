import asyncio
import contextlib
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gatewayd.mqtt import client as module
from gatewayd.mqtt.client import HINTS_OF_AGE, PACKET_TOO_LARGE, REFUSED, Connection, Incoming, Session
from gatewayd.mqtt.pace import Backoff, Pace
from tests.brokers import Mosquitto, free_port, until
from tests.mqtt.support import BASE, console, settings


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """A CA, a server for 127.0.0.1, one for another name, a client, and a client of another CA."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for ca in ("ca", "strange"):
        openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}",
        )  # fmt: skip
    for name, ca, alternative in (
        ("server", "ca", "IP:127.0.0.1"),
        ("other", "ca", "DNS:elsewhere"),
        ("client", "ca", "DNS:gw"),
        ("foreign", "strange", "DNS:gw"),
    ):
        openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}",
        )  # fmt: skip
        (folder / f"{name}.ext").write_text(f"subjectAltName={alternative}\n")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial",
            "-days", "2", "-out", f"{name}.pem", "-extfile", f"{name}.ext",
        )  # fmt: skip
    return folder


def tls_broker(folder: Path, certificates: Path, server: str = "server") -> Mosquitto:
    files = (certificates / "ca.pem", certificates / f"{server}.pem", certificates / f"{server}.key")
    return Mosquitto(folder, tls=files, options=["require_certificate true"])


@contextlib.asynccontextmanager
async def connected(connection: Connection, farewell=None):
    sessions: list[Session] = []

    async def serve(session: Session) -> None:
        sessions.append(session)
        await asyncio.Event().wait()

    task = asyncio.create_task(connection.run(serve, farewell))
    try:
        yield sessions
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_tls_with_a_certificate_of_our_own_carries_large_messages(tmp_path, certificates):
    async with tls_broker(tmp_path, certificates) as broker:
        heard: list[Incoming] = []
        connection = Connection(
            settings(
                f"mqtts://127.0.0.1:{broker.port}",
                ca_file=str(certificates / "ca.pem"),
                cert_file=str(certificates / "client.pem"),
                key_file=str(certificates / "client.key"),
            ),
            client_id="tls",
            on_message=heard.append,
        )
        async with connected(connection) as sessions:
            await until(lambda: sessions)
            for n in range(50):
                assert await sessions[0].publish(f"{BASE}/x{n}", bytes([n]) * 60_000, retain=True) < REFUSED
            assert max(await sessions[0].subscribe([f"{BASE}/#"], stored=True)) < REFUSED
            await until(lambda: len(heard) == 50)
            assert {m.payload for m in heard} == {bytes([n]) * 60_000 for n in range(50)}
            assert all(m.retained for m in heard)


@pytest.mark.parametrize(
    ("server", "client", "ca", "why"),
    [
        ("other", "client", "ca", "IP address mismatch"),
        ("server", "client", "strange", "unable to get local issuer|self-signed|self signed|verify failed"),
        ("server", "foreign", "ca", "alert|closed|unknown ca|connection|CONNACK"),
    ],
)
async def test_tls_is_refused_with_the_wrong_name_or_ca(tmp_path, certificates, server, client, ca, why):
    async with tls_broker(tmp_path, certificates, server) as broker:
        connection = Connection(
            settings(
                f"mqtts://127.0.0.1:{broker.port}",
                ca_file=str(certificates / f"{ca}.pem"),
                cert_file=str(certificates / f"{client}.pem"),
                key_file=str(certificates / f"{client}.key"),
            ),
            client_id="tls",
            only_mqtt5=True,
        )
        with capture_logs() as logs:
            async with connected(connection) as sessions:
                await until(lambda: logs)
                assert not sessions
        assert re.search(why, logs[0]["cause"], re.IGNORECASE)


async def test_the_password_is_read_at_each_connect(tmp_path):
    password = tmp_path / "password"
    password.write_text("wrong\n")
    async with Mosquitto(tmp_path / "broker", users={"gw": "right"}, acl=["user gw", "topic readwrite #"]) as broker:
        connection = Connection(
            settings(broker.url, username="gw", password_file=str(password)), client_id="gw", only_mqtt5=True
        )
        with capture_logs() as logs:
            async with connected(connection) as sessions:
                await until(lambda: logs)
                assert "authori" in logs[0]["cause"].lower()
                password.write_text("right\n")
                await until(lambda: sessions)
        assert "right" not in str(logs)


async def test_a_message_larger_than_the_broker_takes_is_refused_and_the_connection_stays(tmp_path):
    async with Mosquitto(tmp_path, options=["max_packet_size 4096"]) as broker:
        heard: list[Incoming] = []
        connection = Connection(settings(broker.url), client_id="gw", on_message=heard.append)
        with capture_logs() as logs:
            async with connected(connection) as sessions:
                await until(lambda: sessions)
                [session] = sessions
                assert await session.publish(f"{BASE}/large", bytes(4096), retain=True) == PACKET_TOO_LARGE
                session.send_unconfirmed(f"{BASE}/large", bytes(4096))
                assert await session.publish(f"{BASE}/small", bytes(4000), retain=True) < REFUSED
                await session.subscribe([f"{BASE}/#"], stored=True)
                await until(lambda: [message.topic for message in heard] == [f"{BASE}/small"])
                assert session.room == session.window
                assert session.too_large == 2
        assert connection.connects == 1
        [said] = [entry for entry in logs if entry["log_level"] == "error"]
        assert (said["limit"], said["octets"] > 4096, said["topic"]) == (4096, True, f"{BASE}/large")


async def test_a_broker_that_acknowledges_nothing_is_not_used(tmp_path):
    async with Mosquitto(tmp_path, options=["max_qos 0"]) as broker:
        connection = Connection(settings(broker.url, reconnect_max_s=0.05), client_id="gw", only_mqtt5=True)
        with capture_logs() as logs:
            async with connected(connection) as sessions:
                await until(lambda: connection.attempts > 2)
                assert not sessions
        assert [entry["cause"] for entry in logs] == [
            "the broker allows only QoS 0: nothing that it took would be known to have arrived"
        ]


async def test_it_says_once_that_the_broker_is_away_and_once_that_it_is_back(tmp_path):
    broker = Mosquitto(tmp_path)
    connection = Connection(settings(broker.url, reconnect_max_s=0.05), client_id="gw")
    with capture_logs() as logs:
        async with connected(connection) as sessions:
            await until(lambda: connection.attempts > 5)
            assert [entry["event"] for entry in logs] == ["no connection to the broker"]
            async with broker:
                await until(lambda: sessions)
            await until(lambda: not connection.connected and connection.attempts > 10)
            assert connection.connects == 1
    assert [entry["event"] for entry in logs] == [
        "no connection to the broker",
        "connected to the broker",
        "no connection to the broker",
    ]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_frozen_broker_holds_up_neither_the_end_nor_the_caller(tmp_path):
    async with Mosquitto(tmp_path) as broker:
        connection = Connection(settings(broker.url), client_id="gw")

        async def farewell(session: Session) -> None:
            await session.publish(f"{BASE}/status", b"bye")

        async with connected(connection, farewell) as sessions:
            await until(lambda: sessions)
            broker.freeze()
            for _ in range(100):
                sessions[0].send_unconfirmed(f"{BASE}/x", bytes(60_000))
                if sessions[0].stalled:
                    break
                await asyncio.sleep(0)
            assert sessions[0].stalled
        broker.thaw()


async def test_a_mute_broker_is_left_after_the_keepalive(tmp_path):
    async with Mosquitto(tmp_path) as broker:
        connection = Connection(settings(broker.url, keepalive_s=1), client_id="gw", only_mqtt5=True)
        async with connected(connection) as sessions:
            await until(lambda: sessions)
            broker.freeze()
            await until(lambda: not connection.connected)
            broker.thaw()
            await until(lambda: len(sessions) == 2)


async def test_peers_that_close_or_say_nothing_or_rubbish_leave_no_descriptor_behind(tmp_path):
    async def rubbish(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(os.urandom(200))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(rubbish, "127.0.0.1", 0)
    mute = socket.create_server(("127.0.0.1", 0))
    async with server:
        for port in (server.sockets[0].getsockname()[1], free_port(), mute.getsockname()[1]):
            before = descriptors()
            connection = Connection(settings(f"mqtt://127.0.0.1:{port}", reconnect_max_s=0.01), client_id="gw")
            enough = 1 if port == mute.getsockname()[1] else 10
            async with connected(connection) as sessions:
                await until(lambda: connection.attempts >= enough)  # noqa: B023
                assert not sessions
            await until(lambda: descriptors() <= before)  # noqa: B023
    mute.close()


async def test_a_broker_that_closes_while_it_starts_is_not_taken_for_an_old_one(tmp_path):
    """MQTT 3.1.1 has no refusals in its PUBACK, so a wrong guess would lose events in silence."""
    closes = 0

    def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal closes
        closes += 1
        writer.close()

    port = free_port()
    connection = Connection(settings(f"mqtt://127.0.0.1:{port}"), client_id="gw")
    async with connected(connection) as sessions:
        async with await asyncio.start_server(close, "127.0.0.1", port):
            await until(lambda: closes == HINTS_OF_AGE - 1)
        async with Mosquitto(tmp_path, port=port):
            await until(lambda: sessions)
            assert sessions[0].mqtt5


async def test_a_broker_that_is_silent_to_mqtt_5_is_tried_with_3_1_1(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.2)
    async with Mosquitto(tmp_path) as broker:

        async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connect = await reader.read(1024)
            if b"\x04MQTT\x05" in connect:
                await reader.read()
                writer.close()
                return
            theirs, ours = await asyncio.open_connection("127.0.0.1", broker.port)
            ours.write(connect)
            await asyncio.gather(pump(reader, ours), pump(theirs, writer))

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while octets := await reader.read(1024):
                writer.write(octets)
            writer.close()

        async with await asyncio.start_server(old, "127.0.0.1", 0) as server:
            url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            connection = Connection(settings(url, reconnect_max_s=0.05), client_id="gw")
            async with connected(connection) as sessions:
                await until(lambda: sessions)
                assert not sessions[0].mqtt5
                assert connection.attempts == HINTS_OF_AGE + 1
                assert await sessions[0].publish(f"{BASE}/x", b"x") == 0


async def test_an_unconfirmed_message_never_counts_as_an_acknowledgement(tmp_path):
    """A QoS 0 message may carry the packet id of a QoS 1 message that still waits."""
    async with Mosquitto(tmp_path) as broker:
        connection = Connection(settings(broker.url), client_id="gw")
        async with connected(connection) as sessions:
            await until(lambda: sessions)
            session = sessions[0]
            codes: list[int] = []
            broker.freeze()
            session.send(f"{BASE}/x", b"1", codes.append)
            session._paho._last_mid -= 1
            session.send_unconfirmed(f"{BASE}/y", b"2")
            await asyncio.sleep(0)
            await until(lambda: not session._paho.want_write())
            assert not codes
            assert session.room == session.window - 1
            broker.thaw()
            await until(lambda: codes)


async def test_a_packet_id_that_still_waits_is_not_used_twice(tmp_path):
    async with Mosquitto(tmp_path) as broker, console(broker.url) as listener:
        connection = Connection(settings(broker.url), client_id="gw")
        async with connected(connection) as sessions:
            await until(lambda: sessions)
            session = sessions[0]
            codes: list[int] = []
            session.send(f"{BASE}/x", b"1", codes.append)
            session._paho._last_mid -= 1
            session.send(f"{BASE}/x", b"2", codes.append)
            await until(lambda: len(codes) == 2 and len(listener.heard) == 2)
            assert [m.payload for m in listener.heard] == [b"1", b"2"]


def test_pace_allows_its_rate_and_a_burst_and_no_more():
    now = [0.0]
    pace = Pace(10, 5, now=lambda: now[0])
    assert [pace.take(1) for _ in range(6)] == [True] * 5 + [False]
    assert pace.wait_s(1) == pytest.approx(0.1)
    now[0] = 0.1
    assert pace.take(1)
    assert pace.owe(20) == pytest.approx(2.0)
    now[0] = 100.0
    assert pace.owe(5) == 0.0


def test_backoff_doubles_to_its_limit_and_starts_again():
    backoff = Backoff(1, 5)
    assert [backoff.next() for _ in range(4)] == [1, 2, 4, 5]
    backoff.reset()
    assert backoff.next() == 1
