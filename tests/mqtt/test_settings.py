import subprocess
import sys

import msgspec
import pytest

from gatewayd.mqtt import settings as module
from gatewayd.mqtt.settings import MqttSettings


def test_defaults_follow_from_the_gateways_name():
    found = MqttSettings().completed("riverside")
    assert (found.client_id, found.base) == ("gw-riverside", "gw/riverside")
    assert MqttSettings(base="x/y", client_id="z").completed("riverside").base == "x/y"
    assert module.check(found) == []


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("mqtt://10.1.1.1:1884", ("10.1.1.1", 1884, False)),
        ("mqtt://broker", ("broker", 1883, False)),
        ("mqtts://broker/", ("broker", 8883, True)),
        ("mqtts://[::1]:8884", ("::1", 8884, True)),
    ],
)
def test_addresses_of_brokers(url, where):
    assert module.endpoint(url) == where


@pytest.mark.parametrize(
    "url", ["", "tcp://a:1", "mqtt://", "mqtt://a:port", "mqtt://a:99999", "mqtt://u:p@a", "mqtt://a/x", "mqtt://[::1"]
)
def test_what_is_no_address_is_said(url):
    assert module.check(MqttSettings(url=url))[0][0] == "url"


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"ca_file": "ca.pem"}, "ca_file"),
        ({"url": "mqtts://a", "cert_file": "c.pem"}, "cert_file"),
        ({"password_file": "p"}, "password_file"),
        ({"base": "gw/+/x"}, "base"),
        ({"base": "/gw"}, "base"),
        ({"reply_prefixes": ("a/#",)}, "reply_prefixes"),
        ({"retain_rate": 0}, "retain_rate"),
        ({"keepalive_s": 70000}, "keepalive_s"),
    ],
)
def test_every_mistake_names_its_key(more, key):
    assert [found for found, _ in module.check(MqttSettings(**more))] == [key]


def test_unknown_keys_are_an_error():
    with pytest.raises(msgspec.ValidationError, match="pasword_file"):
        msgspec.convert({"pasword_file": "x"}, MqttSettings)


def test_the_settings_import_nothing_heavy():
    heavy = ("aiomqtt", "paho", "ssl", "asyncio")
    code = f"import sys, gatewayd.mqtt.settings; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
