from __future__ import annotations

import pytest

from gatewayd.control.reasons import Reason
from gatewayd.protocols.iec61850 import control, values
from gatewayd.protocols.iec61850.connection import RequestFailed
from gatewayd.protocols.iec61850.control import Parameters, UnsupportedError
from gatewayd.protocols.iec61850.lib import native
from gatewayd.protocols.iec61850.values import Node

# IEC 61850-7-2 AddCause, and what it means to an operator, written down a second time on purpose
TABLE = """
0 unknown device-rejected
1 not-supported unsupported
2 blocked-by-switching-hierarchy local
3 select-failed device-rejected
4 invalid-position position-unknown
5 position-reached already-in-position
6 parameter-change-in-execution stopped
7 step-limit out-of-range
8 blocked-by-mode blocked-mode
9 blocked-by-process blocked-process
10 blocked-by-interlocking interlocked
11 blocked-by-synchrocheck synchrocheck
12 command-already-in-execution device-busy
13 blocked-by-health blocked-health
14 1-of-n-control device-busy
15 abortion-by-cancel cancelled
16 time-limit-over feedback-timeout
17 abortion-by-trip aborted-by-trip
18 object-not-selected not-selected
19 object-already-selected locked-by-other-client
20 no-access-authority not-authorised
21 ended-with-overshoot overshoot
22 abortion-due-to-deviation deviation
23 abortion-by-communication-loss downstream-failed
24 blocked-by-command inhibited
25 none device-rejected
26 inconsistent-parameters mismatch
27 locked-by-other-client locked-by-other-client
"""
ROWS = [line.split() for line in TABLE.split("\n") if line]


@pytest.mark.parametrize(("code", "name", "reason"), ROWS)
def test_every_add_cause_has_its_reason_and_keeps_its_name(code: str, name: str, reason: str):
    found, native_word = control.add_cause(int(code))
    assert (found, native_word) == (Reason(reason), ("iec61850", int(code), name))


def test_an_add_cause_that_does_not_exist_is_a_refusal():
    for code in (-1, 28, 1000):
        reason, native_word = control.add_cause(code)
        assert reason is Reason.DEVICE_REJECTED
        assert native_word.code == code


@pytest.mark.parametrize(
    ("access", "reason"),
    [(3, "device-rejected"), (2, "device-busy"), (7, "bad-request"), (10, "unknown-point"), (99, "device-rejected")],
)
def test_a_refusal_without_add_cause_is_told_by_its_access_error(access: int, reason: str):
    assert control.access_error(RequestFailed("x", 0, access))[0] == Reason(reason)


@pytest.mark.parametrize("value", [None, [], [1, 2, 3, 4, 5], ["a", 0, [], 1], ["a", "b", [], 1, 2], "text", 5])
def test_a_last_appl_error_of_another_shape_is_none(value: object):
    assert control.application_error(value) is None


def test_a_last_appl_error_with_cause_or_error_is_negative():
    assert control.application_error(["a", 0, [], 1, 9]).negative  # type: ignore[union-attr]
    assert control.application_error(["a", 1, [], 1, 0]).negative  # type: ignore[union-attr]
    assert not control.application_error(["a", 0, [], 1, 0]).negative  # type: ignore[union-attr]


def test_orident_is_the_operator_and_is_cut_between_characters():
    assert control.orident("alice", "gw") == b"alice"
    assert control.orident("", "gw") == b"gw"
    cut = control.orident("ü" * 60, "")
    assert len(cut) == 64
    assert cut.decode() == "ü" * 32
    assert len(control.orident("a" + "ü" * 60, "")) == 63


def sent(form: Node, value: object) -> object:
    made = control.ctl_val(form, value)  # type: ignore[arg-type]
    try:
        return values.whole(made)
    finally:
        native.MmsValue_delete(made)


ANALOGUE = Node("ctlVal", values.STRUCTURE, 1, (Node("f", values.FLOAT, 32),))
BOTH = Node("ctlVal", values.STRUCTURE, 2, (Node("i", values.INTEGER, 32), Node("f", values.FLOAT, 32)))


@pytest.mark.parametrize(
    ("form", "value", "expected"),
    [
        (Node("ctlVal", values.BOOLEAN, 1), True, True),
        (Node("ctlVal", values.BOOLEAN, 1), 0, False),
        (Node("ctlVal", values.INTEGER, 32), -7, -7),
        (Node("ctlVal", values.INTEGER, 32), 7.0, 7),
        (Node("ctlVal", values.UNSIGNED, 8), 200, 200),
        (Node("ctlVal", values.FLOAT, 32), 1.5, 1.5),
        (Node("ctlVal", values.BIT_STRING, 2), True, values.Bits(0b01, 2)),
        (Node("ctlVal", values.BIT_STRING, 2), False, values.Bits(0b10, 2)),
        (ANALOGUE, 2.5, [2.5]),
        (BOTH, 2.5, [2, 2.5]),
    ],
)
def test_a_value_goes_out_in_the_devices_own_type(form: Node, value: object, expected: object):
    assert sent(form, value) == expected


@pytest.mark.parametrize(
    ("form", "value"),
    [
        (Node("ctlVal", values.BOOLEAN, 1), 2),
        (Node("ctlVal", values.BOOLEAN, 1), "closed"),
        (Node("ctlVal", values.BOOLEAN, 1), None),
        (Node("ctlVal", values.INTEGER, 32), 1.5),
        (Node("ctlVal", values.INTEGER, 32), float("nan")),
        (Node("ctlVal", values.UNSIGNED, 8), -1),
        (Node("ctlVal", values.UNSIGNED, 8), 256),
        (Node("ctlVal", values.INTEGER, 8), 128),
        (Node("ctlVal", values.INTEGER, 64), 1 << 63),
        (Node("ctlVal", values.FLOAT, 32), 1e39),
        (Node("ctlVal", values.FLOAT, 32), float("nan")),
        (Node("ctlVal", values.BIT_STRING, 13), True),
        (Node("ctlVal", values.STRUCTURE, 1, (Node("other", values.FLOAT, 32),)), 1.0),
        (Node("ctlVal", values.VISIBLE_STRING, 10), 1),
    ],
)
def test_a_value_that_does_not_fit_is_refused_before_anything_is_made(form: Node, value: object):
    given = Parameters(value, b"a", 1, 0, 0, test=False, check=0)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError):
        control.structure(Node("Oper", values.STRUCTURE, 1, (form,)), given)


def test_an_element_that_nobody_knows_is_refused():
    given = Parameters(True, b"a", 1, 0, 0, test=False, check=0)
    with pytest.raises(UnsupportedError, match="element 'odd'"):
        control.structure(Node("Oper", values.STRUCTURE, 1, (Node("odd", values.BOOLEAN, 1),)), given)
