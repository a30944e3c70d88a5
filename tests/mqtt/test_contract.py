import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.types import Answer, Native, ReplyTo, Request, Result, Stage
from gatewayd.mqtt import contract
from gatewayd.mqtt.contract import GatewayInfo, Properties, RequestTopic, Tail, Topics
from gatewayd.points import quality as q
from gatewayd.points.database import PointState
from gatewayd.points.types import ControlMode, Kind, Link, PointSpec
from tests.mqtt.support import Event

SPEC = PointSpec(row=0, name="FDR12/MMXU/TotW", kind=Kind.ANALOG, device="FDR12", address="AI:1")
T = 1_795_482_123_004_000_000
T_TEXT = "2026-11-24T01:02:03.004Z"
TOPICS = Topics("gw/test")
MESSAGE = 64 * 1024


def state(value=12.5, quality=0, time_ns=T, recv_ns=T) -> PointState:
    return PointState(value=value, quality=quality, time_ns=time_ns, recv_ns=recv_ns)


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_record_leaves_out_what_says_the_normal_thing():
    assert contract.record(SPEC, state()) == (
        b'{"point":"FDR12/MMXU/TotW","value":12.5,"quality":"good","t":"' + T_TEXT.encode() + b'","t_src":"device"}'
    )


def test_a_record_says_everything_that_is_not_normal():
    quality = q.QUESTIONABLE | q.OVER_RANGE | q.SUBSTITUTED | q.TEST | q.BLOCKED | q.SYNC_NO
    record = contract.record(SPEC, state(quality=quality, recv_ns=T + 6_000_000))
    assert list(json.loads(record).items()) == [
        ("point", "FDR12/MMXU/TotW"),
        ("value", 12.5),
        ("quality", "questionable"),
        ("flags", ["over-range"]),
        ("source", "substituted"),
        ("test", True),
        ("blocked", True),
        ("t", T_TEXT),
        ("t_src", "device"),
        ("t_sync", "no"),
        ("t_recv", "2026-11-24T01:02:03.010Z"),
    ]


def test_the_receipt_is_left_out_only_where_the_message_says_the_same():
    assert b"t_recv" not in contract.record(SPEC, state(recv_ns=5), 5)
    assert b"t_recv" in contract.record(SPEC, state(recv_ns=T), 5)  # equal to t, but the message says otherwise


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1 << 70, "x" * 5000])
def test_what_json_cannot_carry_is_no_value_and_invalid(value):
    record = json.loads(contract.record(SPEC, state(value=value)))
    assert (record["value"], record["quality"]) == (None, "invalid")


@pytest.mark.parametrize(
    "value", [True, False, None, 0, -1, (1 << 64) - 1, 1.5e300, 5e-324, -0.0, "open", 'Ü"\\\n\x00']
)
def test_values_come_back_as_they_were(value):
    found = json.loads(contract.record(SPEC, state(value=value)))["value"]
    assert found == value
    assert type(found) is type(value)


@given(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    st.integers(0, (1 << 31) - 1),
    st.integers(-(1 << 70), 1 << 70),
    st.integers(-(1 << 70), 1 << 70),
)
def test_any_state_is_strict_json_and_never_better_than_its_quality(value, quality, time_ns, recv_ns):
    found = json.loads(contract.record(SPEC, state(value, quality, time_ns, recv_ns)), parse_constant=pytest.fail)
    assert found["quality"] in ("invalid", q.validity(quality))
    assert found.get("flags", []) == q.flags(quality)
    assert found["t_src"] == ("gateway" if quality & q.RECEIPT else "device")


@given(st.integers(0, 253_402_300_799_999_999_999))
def test_times_survive_the_way_out_and_back(time_ns):
    text = contract.rfc3339(time_ns).decode()
    assert contract.parse_time(text) == time_ns
    assert len(text.partition(".")[2]) - 1 in (3, 6, 9)


def test_state_messages_give_the_receipt_once_and_stay_within_64_kib():
    specs = [PointSpec(row=n, name=f"D/P{n}", kind=Kind.ANALOG, device="D", address="") for n in range(3000)]
    messages = contract.state_messages(specs, [state(recv_ns=T + 1)] * 3000)
    assert len(messages) > 1
    assert sum(count for _, count in messages) == 3000
    names = []
    for payload, count in messages:
        body = json.loads(payload)
        assert len(payload) <= MESSAGE
        assert body["t_recv"] == "2026-11-24T01:02:03.004000001Z"
        assert len(body["points"]) == count
        assert not any("t_recv" in record for record in body["points"])
        names += [record["point"] for record in body["points"]]
    assert names == [spec.name for spec in specs]
    assert contract.state_messages([], []) == []


def test_snapshots_and_catalogs_come_in_numbered_parts():
    specs = [
        PointSpec(row=n, name=f"D/P{n}", kind=Kind.ENUM, device="D", address="", states={0: "off", 1: "on"}, unit="°C")
        for n in range(2000)
    ]
    for messages in (
        contract.snapshot_messages(specs, [state()] * 2000),
        contract.catalog_messages("D", "dnp3", specs),
    ):
        bodies = [json.loads(message) for message in messages]
        assert [(body["part"], body["parts"]) for body in bodies] == [(n, len(bodies)) for n in range(len(bodies))]
        assert sum(len(body["points"]) for body in bodies) == 2000
        assert max(map(len, messages)) <= MESSAGE
    assert contract.snapshot_messages([], []) == []
    assert json.loads(contract.catalog_messages("D", "dnp3", [])[0])["points"] == []


def test_a_catalog_says_what_a_console_must_know():
    spec = PointSpec(
        row=0, name="A/CB", kind=Kind.DOUBLE, device="A", address="DBI:3", states={1: "open", 2: "closed"}, event=True,
        control=ControlMode.SBO, description="feeder 12", area="north", bay="12", min=1.0,
    )  # fmt: skip
    assert json.loads(contract.catalog_messages("A", "dnp3", [spec])[0])["points"] == [
        {
            "point": "A/CB", "kind": "double", "event": True, "states": {"1": "open", "2": "closed"},
            "control": "sbo", "min": 1.0, "description": "feeder 12", "area": "north", "bay": "12",
                "tags": ["tag/gateway", "tag/device/A", "tag/bay/12", "tag/point/A/CB"],
        }
    ]  # fmt: skip


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_get_number_and_age_when_they_are_sent():
    young = Event(7, T, contract.point_event(SPEC, state()))
    old = Event(8, T - 61_000_000_000, contract.point_event(SPEC, state(), repeat=True))
    marked = Event(9, T - 61_000_000_000, contract.point_event(SPEC, state(), historical=True))
    [message] = contract.event_messages("e1", [young, old, marked], T)
    assert (message.first, message.last) == (7, 9)
    body = json.loads(message.payload)
    assert (body["epoch"], body["first"]) == ("e1", 7)
    assert [(e["seq"], e.get("repeat"), e.get("historical")) for e in body["events"]] == [
        (7, None, None),
        (8, True, True),
        (9, None, True),
    ]
    assert message.payload.count(b'"historical"') == 2


def test_a_late_event_with_a_trusted_time_is_historical_by_itself():
    late = state(time_ns=T - 61_000_000_000)
    assert json.loads(contract.point_event(SPEC, late))["historical"] is True
    late.quality = q.SYNC_NO
    assert "historical" not in json.loads(contract.point_event(SPEC, late))


def test_event_messages_hold_500_events_and_64_kib_at_most():
    small = [Event(n, T, b'{"point":"A"}') for n in range(1, 1201)]
    assert [(m.first, m.last) for m in contract.event_messages(1, small, T)] == [(1, 500), (501, 1000), (1001, 1200)]
    big = [Event(n, T, b'{"point":"%b"}' % (b"A" * 30_000)) for n in range(1, 6)]
    messages = contract.event_messages(1, big, T)
    assert [(m.first, m.last) for m in messages] == [(1, 2), (3, 4), (5, 5)]
    assert max(len(m.payload) for m in messages) <= MESSAGE
    assert contract.event_messages(1, [], T) == []


def test_only_gap_records_go_to_the_gap_topic():
    gap = Event(3, T, contract.gap_event("A", "buffer overflow", from_ns=T, to_ns=T, lost=4))
    assert json.loads(contract.gap_message("e1", gap)) == {
        "epoch": "e1", "seq": 3, "type": "gap", "device": "A", "from": T_TEXT, "to": T_TEXT,
        "cause": "buffer overflow", "t": T_TEXT, "t_src": "gateway", "lost": 4,
    }  # fmt: skip
    assert contract.gap_message("e1", Event(1, T, contract.point_event(SPEC, state()))) is None


def test_device_and_clock_events():
    assert json.loads(contract.device_event("A", Link.DOWN, "no answer \ud800", T)) == {
        "type": "device", "device": "A", "link": "down", "cause": "no answer ?", "t": T_TEXT, "t_src": "gateway",
    }  # fmt: skip
    assert json.loads(contract.clock_event(-1_500_000_000, T))["step_s"] == -1.5


def test_status_and_its_will_differ_only_in_the_state():
    info, tail = GatewayInfo("g", "1.0", "c0", "b1"), Tail("e1", 1, 9, 7)
    online = json.loads(contract.status(info, tail, {"synchronised": True}, T, online=True))
    offline = json.loads(contract.status(info, tail, {"synchronised": True}, T, online=False))
    assert online | {"state": "offline"} == offline
    assert {"state", "boot", "epoch", "oldest", "newest", "version", "config", "time", "clock"} <= online.keys()


ANSWER = Answer(
    operator="alice", tx="t1", point="A/CB", stage=Stage.SELECT, result=Result.SELECTED, reason=Reason.OK,
    effect=Effect.NONE, select_id="5ec2e7", valid_for_s=30.0, native=Native("dnp3", 7, "LOCAL"), late=True,
    time_ns=T, value="open", detail="x",
)  # fmt: skip


def test_a_select_id_goes_to_the_asker_and_to_nobody_else():
    assert json.loads(contract.reply(ANSWER))["select_id"] == "5ec2e7"
    for public in (contract.control(ANSWER), contract.control_event(ANSWER)):
        assert b"5ec2e7" not in public
        assert json.loads(public)["operator"] == "alice"
    assert json.loads(contract.control(ANSWER))["time"] == T_TEXT
    event = json.loads(contract.control_event(ANSWER))
    assert (event["type"], event["late"], event["native"]["name"]) == ("control", True, "LOCAL")


# --- requests ---------------------------------------------------------------------------------------------------------


def decode(body, verb="select", **more) -> Request:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = contract.decode(TOPICS, f"gw/test/cmd/alice/{verb}", payload, **more)
    assert request is not None
    return request


SELECT = {"tx": "t1", "point": "A/CB", "value": "open", "expires_at": T_TEXT}


def test_a_select_is_read():
    request = decode(SELECT, received_ns=5, received_mono=6)
    assert (request.stage, request.operator, request.tx, request.point) == (Stage.SELECT, "alice", "t1", "A/CB")
    assert (request.value, request.expires_ns, request.bad, request.retained) == ("open", T, "", False)
    assert (request.received_ns, request.received_mono) == (5, 6)


def test_a_missing_expiry_is_left_to_the_gates():
    assert decode({"tx": "t1", "point": "A/CB", "value": 1}).expires_ns is None
    assert not decode({"tx": "t1", "point": "A/CB", "value": 1}).bad


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tx": None}, "tx is missing"),
        ({"tx": 7}, "tx is not"),
        ({"tx": "a b"}, "tx is not"),
        ({"tx": "x" * 65}, "tx is not"),
        ({"point": None}, "point is missing"),
        ({"point": ""}, "point is not"),
        ({"point": "a\x1b[2J"}, "point is not"),
        ({"value": None}, "value is missing"),
        ({"value": [1]}, "value is not"),
        ({"value": {"a": 1}}, "value is not"),
        ({"value": "x" * 257}, "value is a text"),
        ({"expires_at": 12}, "expires_at is not a text"),
        ({"expires_at": "tomorrow"}, "expires_at 'tomorrow' is not"),
        ({"test": "yes"}, "test is not"),
    ],
)
def test_what_is_wrong_with_a_field_is_said_and_the_rest_is_kept(change, why):
    request = decode(SELECT | change)
    assert request.bad.startswith(why)
    assert request.tx == ("" if "tx" in change else "t1")


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"{" * 9, "nested"),
        (b'{"a":[[[[[[[[[1]]]]]]]]]}', "nested"),
        (b"[1]", "not a JSON object"),
        (b'{"tx":"a","tx":"b"}', "twice"),
        (b'{"a":{"b":1,"b":2}}', "twice"),
        (b'{"value":NaN}', "NaN"),
        (b'{"value":-Infinity}', "Infinity"),
        (b'{"value":1e999}', "too large"),
        (b'{"value":99999999999999999999}', "64 bits"),
        (b'{"value":' + b"9" * 4000 + b"}", "64 bits"),
        (b'{"tx":"\\ud800"}', "surrogate"),
        (b'{"a":"' + b"x" * 4096 + b'"}', "octets"),
        (b"\xef\xbb\xbf{}", "not JSON"),
    ],
)
def test_malformed_payloads_are_bad_for_their_reason(payload, why):
    assert why in decode(payload).bad


def test_eight_deep_is_allowed_and_brackets_in_texts_do_not_count():
    assert not decode(SELECT | {"more": [[[[[[[1]]]]]]], "note": '{{{{{{{{{{"[[[[\\'}).bad


def test_operate_and_cancel_need_a_select_id():
    assert decode(SELECT, "operate").bad == "select_id is missing"
    assert decode({"tx": "t1"}, "cancel").bad == "select_id is missing"
    assert not decode({"tx": "t1", "select_id": "ab"}, "cancel").bad


def test_tags_keep_their_whole_body():
    request = decode({"tx": "t1", "point": "A/CB", "kind": "personal-lock", "note": "crew 7"}, "tag")
    assert (request.stage, request.bad, request.body["note"]) == (Stage.TAG, "", "crew 7")


def test_topics_that_are_no_commands_are_none():
    for topic in ("gw/test/cmd/alice/explode", "gw/test/cmd/alice", "gw/other/cmd/a/select", "gw/test/state/A", ""):
        assert contract.decode(TOPICS, topic, b"{}") is None


def test_the_reply_to_is_kept_only_where_it_may_be():
    asked = Properties("gw/test/reply/alice/7", b"\x00", (("key", "k"), ("sig", "s"), ("key", "second")))
    request = decode(SELECT, properties=asked)
    assert request.reply_to == ReplyTo("gw/test/reply/alice/7", b"\x00")
    assert (request.key, request.sig) == ("k", "s")
    for topic in ("gw/test/reply/alicent", "gw/test/reply/bob", "gw/test/reply/alice/+", "$SYS/x", "a/#", "x" * 600):
        assert decode(SELECT, properties=Properties(topic), reply_prefixes=("gw", "a", "$SYS", "x")).reply_to is None


@given(st.text(), st.binary(), st.text(), st.booleans())
def test_no_octets_make_it_raise(who, payload, response_topic, retained):
    for verb in ("select", "operate", "cancel", "direct", "tag"):
        found = contract.decode(
            TOPICS, f"gw/test/cmd/{who}/{verb}", payload, Properties(response_topic), retained=retained
        )
        assert found is None or found.bad or verb == "tag"
    contract.decode_interrogate(RequestTopic("interrogate", who, ""), payload)
    assert contract.decode_replay(RequestTopic("replay", who, ""), payload).bad


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["tx", "point", "value", "select_id", "expires_at", "test", "device", "epoch", "from", "to"]),
        JSON,
    )
)
def test_no_json_makes_it_raise_and_what_is_good_has_sound_types(body):
    payload = json.dumps(body).encode()
    for verb in ("select", "operate", "cancel", "direct", "tag", "inhibit", "clear"):
        found = contract.decode(TOPICS, f"gw/test/cmd/alice/{verb}", payload)
        assert found is not None
        assert found.value is None or isinstance(found.value, bool | int | float | str)
        assert not isinstance(found.value, float) or math.isfinite(found.value)
        assert json.loads(contract.reply(_answer_to(found)))["tx"] == found.tx
    contract.decode_interrogate(RequestTopic("interrogate", "a", ""), payload)
    replay = contract.decode_replay(RequestTopic("replay", "a", ""), payload)
    assert replay.bad or (0 <= replay.first <= replay.last)


def _answer_to(request: Request) -> Answer:
    return Answer(
        operator=request.operator, tx=request.tx, point=request.point, stage=request.stage, result=Result.DONE,
        reason=Reason.BAD_REQUEST, effect=Effect.NONE, detail=request.bad, value=request.value,
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-24T01:02:03", "2026-11-24 01:02:03Z", "2026-11-24t01:02:03Z", "2026-11-24T01:02:03z",
        "2026-11-24T01:02:60Z", "2026-02-30T01:02:03Z", "2026-11-24T24:00:00Z", "2026-11-24T01:02:03.Z",
        "2026-11-24T01:02:03.0123456789Z", "2026-11-24T01:02:03+24:00", "2026-11-24T01:02:03+01:60",
        "２026-11-24T01:02:03Z", "2026-11-24T01:02:03Z\n", "0000-01-01T00:00:00Z", "",
    ],
)  # fmt: skip
def test_times_are_read_strictly(text):
    with pytest.raises(ValueError, match=r"RFC 3339|zone|must be in|day|out of range"):
        contract.parse_time(text)


def test_zones_are_counted():
    moment = int(datetime(2026, 11, 24, 1, 2, 3, tzinfo=UTC).timestamp())
    assert contract.parse_time("2026-11-24T02:32:03.5+01:30") == moment * 10**9 + 500_000_000
    assert contract.parse_time("2026-11-23T20:02:03-05:00") == moment * 10**9


def test_interrogations():
    where = RequestTopic("interrogate", "hmi", "")
    assert contract.decode_interrogate(where, b"").device is None
    assert contract.decode_interrogate(where, b'{"device":"A"}') == ("hmi", "A", "")
    assert contract.decode_interrogate(where, b'{"device":"A"}', retained=True).bad == "retained"
    assert contract.decode_interrogate(RequestTopic("interrogate", "a b", ""), b"").bad


def test_replays():
    where = RequestTopic("replay", "hist", "")
    assert contract.decode_replay(where, b'{"epoch":"e","from":1,"to":2}') == ("hist", "e", 1, 2, "")
    for payload in (b'{"epoch":"e","from":2,"to":1}', b'{"epoch":true,"from":1,"to":1}', b'{"from":1,"to":1}',
                    b'{"epoch":"e","from":-1,"to":1}', b'{"epoch":"e","from":1,"to":9223372036854775807}'):  # fmt: skip
        assert contract.decode_replay(where, payload).bad
