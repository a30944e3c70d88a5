from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest

from gatewayd.console.view import Entry, Filter, Row, StationView, age_text, as_json, value_text
from tests.cli.gateway import CATALOG, NOW, VALUES, record

THEN = datetime.fromisoformat(NOW)


def station() -> StationView:
    view = StationView("gw/test")
    put(view, "status", {"state": "online", "boot": "b1", "newest": 7, "version": "0.1", "time": NOW})
    for device, entries in CATALOG.items():
        put(view, f"device/{device}", {"link": "up", "since": NOW, "cause": "", "protocol": "dnp3"})
        put(view, f"catalog/{device}", {"device": device, "part": 0, "parts": 1, "points": entries})
        points = [record(str(entry["point"]), VALUES[str(entry["point"])]) for entry in entries]
        put(view, f"snapshot/{device}/0", {"part": 0, "parts": 1, "points": points})
    return view


def put(view: StationView, topic: str, body: object) -> list[str]:
    return view.feed(f"gw/test/{topic}", b"" if body is None else json.dumps(body).encode())


def row(view: StationView, point: str, *, connected: bool = True) -> Row:
    return view.row(point, THEN + timedelta(seconds=3), connected=connected)


def test_a_late_console_is_complete_from_what_is_stored() -> None:
    view = station()
    assert view.complete
    seen = row(view, "FDR12/I")
    assert (seen.value, seen.unit, seen.quality, seen.device, seen.link, seen.age_s) == (
        41.5,
        "A",
        "good",
        "FDR12",
        "up",
        3,
    )
    assert row(view, "FDR12/LOCAL").text == "remote"


def test_it_is_not_complete_while_a_part_or_a_record_is_missing() -> None:
    view = station()
    put(view, "catalog/MTR3", {"device": "MTR3", "part": 0, "parts": 2, "points": CATALOG["MTR3"]})
    assert not view.complete
    view = station()
    put(view, "device/NEW", {"link": "up", "since": NOW, "cause": "", "protocol": "modbus"})
    assert not view.complete
    put(view, "catalog/NEW", {"device": "NEW", "part": 0, "parts": 1, "points": [{"point": "NEW/X"}]})
    assert not view.complete
    assert (row(view, "NEW/X").quality, row(view, "NEW/X").flags) == ("invalid", ("not-received",))
    put(view, "point/NEW/X", record("NEW/X", 1))
    assert view.complete


@pytest.mark.parametrize("link", ["down", "connecting", "fault", "disabled"])
def test_a_point_is_only_as_good_as_its_link(link: str) -> None:
    view = station()
    changed = put(view, "device/FDR12", {"link": link, "since": NOW, "cause": "no answer", "protocol": "dnp3"})
    assert "FDR12/I" in changed
    assert (row(view, "FDR12/I").quality, row(view, "FDR12/I").flags) == ("questionable", (f"link-{link}",))
    assert row(view, "MTR3/WH").quality == "good"


def test_a_point_is_only_as_good_as_the_gateways_status_and_our_own_connection() -> None:
    view = station()
    assert row(view, "FDR12/I", connected=False).flags == ("broker-lost",)
    assert row(view, "FDR12/I", connected=False).quality == "questionable"
    changed = put(view, "status", {"state": "offline", "boot": "b1"})
    assert set(changed) == set(VALUES)
    assert (row(view, "FDR12/I").quality, row(view, "FDR12/I").flags) == ("questionable", ("gateway-offline",))


def test_invalid_stays_invalid_whatever_the_link_says() -> None:
    view = station()
    put(view, "state/FDR12", {"t_recv": NOW, "points": [record("FDR12/I", None, quality="invalid")]})
    put(view, "device/FDR12", {"link": "down", "since": NOW, "cause": "", "protocol": "dnp3"})
    assert row(view, "FDR12/I").quality == "invalid"


def test_the_newest_wins_in_whatever_order_stored_and_live_ones_come() -> None:
    view = station()
    later = "2026-11-24T01:02:04Z"
    assert put(view, "state/FDR12", {"t_recv": later, "points": [record("FDR12/I", 7.0, t=later)]}) == ["FDR12/I"]
    assert put(view, "point/FDR12/I", record("FDR12/I", 1.0)) == []
    put(view, "snapshot/FDR12/0", {"part": 0, "parts": 1, "points": [record("FDR12/I", 2.0)]})
    assert row(view, "FDR12/I").value == 7.0
    older_stamp = record("FDR12/I", 8.0, t="2026-11-24T01:00:00Z", t_recv="2026-11-24T01:02:04.5Z")
    assert put(view, "point/FDR12/I", older_stamp) == ["FDR12/I"]


def test_a_new_run_of_the_gateway_forgets_what_the_old_one_knew() -> None:
    view = station()
    put(view, "status", {"state": "online", "boot": "b2"})
    assert row(view, "FDR12/I").quality == "invalid"
    put(view, "point/FDR12/I", record("FDR12/I", None, quality="invalid", t="1970-01-01T00:00:00.000Z"))
    assert row(view, "FDR12/I").age_s is None


def test_a_point_that_left_is_gone() -> None:
    view = station()
    put(view, "catalog/MTR3", None)
    put(view, "point/MTR3/WH", None)
    assert "MTR3/WH" not in list(view.names())


def test_remarks_show_beside_the_flags() -> None:
    view = station()
    marked = record(
        "FDR12/I", 1.0, quality="questionable", flags=["over-range"], source="substituted", test=True, blocked=True
    )
    put(view, "state/FDR12", {"t_recv": NOW, "points": [marked]})
    assert row(view, "FDR12/I").flags == ("over-range", "substituted", "test", "blocked")


def test_events_and_state_messages_are_counted() -> None:
    view = station()
    put(view, "event", {"epoch": "e", "first": 1, "events": [{"seq": 1}, {"seq": 2, "type": "gap"}]})
    put(view, "state/FDR12", {"t_recv": NOW, "points": []})
    assert (view.events, view.event_messages, view.state_messages) == (2, 1, 1)


@pytest.mark.parametrize("payload", [b"{", b"[]", b"\xff", b'{"points":[{"point":1}]}', b'{"state":7}'])
@pytest.mark.parametrize("topic", ["status", "state/FDR12", "snapshot/FDR12/0", "point/FDR12/I", "event"])
def test_rubbish_changes_nothing(topic: str, payload: bytes) -> None:
    view = station()
    before = row(view, "FDR12/I")
    view.feed(f"gw/test/{topic}", payload)
    assert row(view, "FDR12/I") == before


def test_filters_choose_by_device_and_pattern() -> None:
    view = station()
    assert list(view.names(Filter(devices=("MTR3",)))) == ["MTR3/WH"]
    assert list(view.names(Filter(patterns=("*/CB/*", "MTR3/*")))) == ["FDR12/CB/POS", "MTR3/WH"]
    assert list(view.names(Filter(("MTR3",), ("FDR12/*",)))) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "trip"),
        (False, "off"),
        (0.125, "0.125"),
        (12345.678, "12345.7"),
        (7, "7"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
    ],
)
def test_values_for_people(value: bool | float | str | None, text: str) -> None:
    assert value_text(value, Entry("X", states={"1": "trip"})) == text


def test_ages_for_people() -> None:
    ages = [None, 0.04, 9.96, 11, 119, 121, 7200, 200_000]
    assert [age_text(age) for age in ages] == ["never", "0.0 s", "10.0 s", "11 s", "119 s", "2 min", "2 h", "2 d"]


def test_a_row_as_json_has_what_a_script_needs() -> None:
    body = json.loads(as_json(row(station(), "FDR12/CB/POS")))
    assert (body["point"], body["value"], body["quality"], body["link"]) == ("FDR12/CB/POS", "closed", "good", "up")
    assert body["t"] == NOW
