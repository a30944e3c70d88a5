import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.points.deadband import passes
from gatewayd.points.types import Kind, PointSpec


def spec(**fields: float) -> PointSpec:
    return PointSpec(row=0, name="A", kind=Kind.ANALOG, device="D", address="AI:0", **fields)


@pytest.mark.parametrize(
    ("fields", "last", "value", "sent"),
    [
        ({}, 1.0, 1.0, False),
        ({}, 1.0, 1.0000001, True),
        ({"deadband": 0.5}, 10.0, 10.5, False),
        ({"deadband": 0.5}, 10.0, 10.6, True),
        ({"deadband": 0.5}, 10.0, 9.4, True),
        ({"deadband_percent": 1.0}, 200.0, 202.0, False),
        ({"deadband_percent": 1.0}, 200.0, 202.1, True),
        ({"deadband_percent": 1.0}, -200.0, -202.1, True),
        ({"deadband_percent": 1.0}, 0.0, 0.001, True),
        ({"deadband": 5.0}, None, 1.0, True),
        ({"deadband": 5.0}, 1.0, None, True),
        ({"deadband": 5.0}, None, None, False),
        ({"deadband": 5.0}, "a", "b", True),
        ({"deadband": 5.0}, "a", "a", False),
    ],
)
def test_a_value_passes_when_it_left_the_deadband(fields: dict, last: object, value: object, sent: bool) -> None:
    assert passes(spec(**fields), last, value) is sent


@given(st.floats(0.1, 100), st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_what_was_sent_is_never_further_away_than_the_deadband(deadband: float, values: list[float]) -> None:
    point, sent = spec(deadband=deadband), values[0]
    for value in values:
        sent = value if passes(point, sent, value) else sent
        assert abs(value - sent) <= deadband
