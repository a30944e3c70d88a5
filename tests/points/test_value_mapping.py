import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.points import quality as q
from gatewayd.points.mapping import compile_mapping, to_raw
from gatewayd.points.types import Kind, PointSpec


def spec(kind: Kind, **fields: object) -> PointSpec:
    return PointSpec(row=0, name="FDR12/X", kind=kind, device="FDR12", address="AI:0", **fields)


@pytest.mark.parametrize(
    ("kind", "fields", "raw", "value"),
    [
        (Kind.BINARY, {}, True, True),
        (Kind.BINARY, {}, 0, False),
        (Kind.BINARY, {"invert": True}, True, False),
        (Kind.DOUBLE, {}, 0, "intermediate"),
        (Kind.DOUBLE, {}, 1, "open"),
        (Kind.DOUBLE, {}, 2, "closed"),
        (Kind.DOUBLE, {}, 3, "bad"),
        (Kind.DOUBLE, {"invert": True}, 1, "closed"),
        (Kind.DOUBLE, {"invert": True}, 3, "bad"),
        (Kind.DOUBLE, {"states": {1: "aus", 2: "ein"}}, 1, "open"),
        (Kind.ANALOG, {}, 7, 7),
        (Kind.ANALOG, {}, -1.5, -1.5),
        (Kind.ANALOG, {"scale": 0.01}, 1235, 12.35),
        (Kind.ANALOG, {"scale": 2.0, "offset": -3.0}, 5, 7.0),
        (Kind.COUNTER, {}, 2**63, 2**63),
        (Kind.COUNTER, {"scale": 10.0, "offset": 5.0}, 7, 75),
        (Kind.COUNTER, {}, 12.0, 12),
        (Kind.ENUM, {"states": {1: "auto", 2: "manual"}}, 2, "manual"),
        (Kind.ENUM, {}, 9, 9),
        (Kind.STRING, {}, "relay 7", "relay 7"),
    ],
)
def test_raw_values_become_engineering_values(kind: Kind, fields: dict, raw: object, value: object) -> None:
    mapped, bits = compile_mapping(spec(kind, **fields))(raw)
    assert (mapped, type(mapped), bits) == (value, type(value), 0)


@pytest.mark.parametrize(
    ("kind", "fields", "raw", "flag"),
    [
        (Kind.BINARY, {}, "on", q.CONFIG_ERROR),
        (Kind.BINARY, {}, 2, q.CONFIG_ERROR),
        (Kind.DOUBLE, {}, 4, q.INCONSISTENT),
        (Kind.DOUBLE, {}, True, q.CONFIG_ERROR),
        (Kind.ANALOG, {}, math.nan, q.OUT_OF_RANGE),
        (Kind.ANALOG, {}, -math.inf, q.OUT_OF_RANGE),
        (Kind.ANALOG, {"scale": 0.5}, math.nan, q.OUT_OF_RANGE),
        (Kind.ANALOG, {"scale": 1e300}, 1e300, q.OUT_OF_RANGE),
        (Kind.ANALOG, {"scale": 0.1}, 10**400, q.OUT_OF_RANGE),
        (Kind.ANALOG, {}, True, q.CONFIG_ERROR),
        (Kind.ANALOG, {"scale": 0.1}, "12", q.CONFIG_ERROR),
        (Kind.ANALOG, {}, 2**64, q.OUT_OF_RANGE),
        (Kind.COUNTER, {"scale": 10.0}, 2**64 - 1, q.OUT_OF_RANGE),
        (Kind.COUNTER, {}, 1e300, q.OUT_OF_RANGE),
        (Kind.ENUM, {}, -(2**63) - 1, q.OUT_OF_RANGE),
        (Kind.COUNTER, {}, 1.5, q.CONFIG_ERROR),
        (Kind.COUNTER, {}, math.inf, q.OUT_OF_RANGE),
        (Kind.ENUM, {}, 1.0, q.CONFIG_ERROR),
        (Kind.STRING, {}, 5, q.CONFIG_ERROR),
        (Kind.ANALOG, {}, None, 0),
        (Kind.DOUBLE, {}, None, 0),
    ],
)
def test_what_is_no_value_is_invalid_and_none(kind: Kind, fields: dict, raw: object, flag: int) -> None:
    value, bits = compile_mapping(spec(kind, **fields))(raw)
    assert value is None
    assert bits & q.VALIDITY_MASK == q.INVALID
    assert bits & q.FLAGS_MASK == flag


def test_an_enum_code_without_text_stays_a_number_and_is_not_usable() -> None:
    value, bits = compile_mapping(spec(Kind.ENUM, states={1: "auto"}))(5)
    assert value == 5
    assert not q.usable(bits)


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
specs = st.builds(
    spec,
    st.sampled_from(Kind),
    scale=st.sampled_from([1.0, 10.0, -2.0, 1e9]),
    offset=st.sampled_from([0.0, 3.0]),
    invert=st.booleans(),
    states=st.sampled_from([{}, {0: "off", 1: "on"}]),
)


@given(specs, anything)
def test_mapping_never_raises_and_never_lets_nan_through(point: PointSpec, raw: object) -> None:
    value, bits = compile_mapping(point)(raw)
    assert value is not None or bits & q.VALIDITY_MASK == q.INVALID
    assert not isinstance(value, float) or math.isfinite(value)


@given(specs, anything)
def test_a_command_is_a_raw_value_or_a_value_error(point: PointSpec, value: object) -> None:
    try:
        raw = to_raw(point, value)
    except ValueError:
        return
    assert raw is not None
    if point.kind in (Kind.BINARY, Kind.DOUBLE):
        assert isinstance(raw, bool)


@given(
    st.integers(-(2**31), 2**31),
    st.sampled_from([1.0, 0.1, 0.01, 0.001, 2.5, -0.5, 1e6]),
    st.sampled_from([0.0, -40.0, 0.5]),
)
def test_a_scaled_setpoint_comes_back_as_the_same_raw_number(raw: int, scale: float, offset: float) -> None:
    point = spec(Kind.ANALOG, scale=scale, offset=offset)
    value, _ = compile_mapping(point)(raw)
    assert to_raw(point, value) == raw


@given(
    st.sampled_from(list(Kind)),
    st.one_of(st.floats(), st.integers(), st.integers(-(2**64), 2**64), st.booleans(), st.text(max_size=5), st.none()),
    st.sampled_from([1.0, 1000.0, 0.1, -3.0]),
)
def test_whatever_comes_can_be_stored_and_published(kind: Kind, raw: object, scale: float) -> None:
    value, bits = compile_mapping(spec(kind, scale=scale))(raw)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(value)) == value
    assert msgspec.json.decode(msgspec.json.encode(value)) == value
    assert value is not None or q.validity(bits) == "invalid"


@given(st.integers(0, 2**60), st.sampled_from([1.0, 10.0, -3.0]), st.sampled_from([0.0, 7.0]))
def test_a_counter_comes_back_as_the_same_raw_number(raw: int, scale: float, offset: float) -> None:
    point = spec(Kind.COUNTER, scale=scale, offset=offset)
    value, _ = compile_mapping(point)(raw)
    assert to_raw(point, value) == raw


@given(st.integers(0, 3))
def test_an_enum_comes_back_as_the_same_code(raw: int) -> None:
    point = spec(Kind.ENUM, states={0: "off", 1: "Auto", 2: "manual", 3: "test"})
    value, _ = compile_mapping(point)(raw)
    assert to_raw(point, value) == raw


@pytest.mark.parametrize(
    ("kind", "states", "value", "raw"),
    [
        (Kind.DOUBLE, {}, "open", False),
        (Kind.DOUBLE, {}, "Closed", True),
        (Kind.DOUBLE, {1: "aus", 2: "ein"}, "ein", True),
        (Kind.DOUBLE, {}, True, True),
        (Kind.BINARY, {}, "on", True),
        (Kind.BINARY, {0: "released", 1: "blocked"}, "released", False),
        (Kind.BINARY, {0: "on", 1: "off"}, "on", False),
        (Kind.BINARY, {}, "lower", False),
        (Kind.ANALOG, {}, "raise", True),
        (Kind.ENUM, {1: "auto"}, 1, 1),
        (Kind.STRING, {}, "abc", "abc"),
    ],
)
def test_commands_are_given_in_the_points_own_words(kind: Kind, states: dict, value: object, raw: object) -> None:
    result = to_raw(spec(kind, states=states), value)
    assert (result, type(result)) == (raw, type(raw))


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (Kind.DOUBLE, "intermediate", 'found "intermediate"; FDR12/X takes "closed", "open", true or false'),
        (Kind.DOUBLE, 1, "found 1;"),
        (Kind.BINARY, 0, "found 0;"),
        (Kind.BINARY, None, "found None;"),
        (Kind.ANALOG, "12", 'found "12"; FDR12/X takes a number'),
        (Kind.ANALOG, math.nan, "found nan;"),
        (Kind.ANALOG, True, "found True;"),
        (Kind.ANALOG, 10**400, "FDR12/X takes a number"),
        (Kind.COUNTER, 1.5, "whole steps"),
        (Kind.ENUM, "auto", "a whole number"),
        (Kind.STRING, 5, "takes a text"),
        (Kind.STRING, "x" * 300, "at most 255"),
    ],
)
def test_a_command_of_the_wrong_type_says_what_is_allowed(kind: Kind, value: object, says: str) -> None:
    with pytest.raises(ValueError, match=r"found|characters") as caught:
        to_raw(spec(kind), value)
    assert says in str(caught.value)
