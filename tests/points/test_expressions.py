import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.points import quality as q
from gatewayd.points.expressions import ExpressionError, Operand, Outcome, Type, compile_expression

NAMES = dict.fromkeys(("A", "B", "C", "FDR12/DS/POS", "FDR12/LOCAL", "Größe/Ä"))
TRUTH = {True: Operand(True, 0, 1), False: Operand(False, 0, 1), None: Operand(True, q.QUESTIONABLE, 1)}


def kleene(text: str, **points: bool | None) -> bool | None:
    return compile_expression(text, NAMES).passes(lambda name: TRUTH[points[name]])


def kleene_and(a: bool | None, b: bool | None) -> bool | None:
    return False if a is False or b is False else (True if a and b else None)


def kleene_or(a: bool | None, b: bool | None) -> bool | None:
    return True if a or b else (False if a is False and b is False else None)


THREE = (True, False, None)


@pytest.mark.parametrize("a", THREE)
def test_not_unknown_is_unknown(a: bool | None) -> None:
    assert kleene("not on('A')", A=a) is (None if a is None else not a)


@pytest.mark.parametrize(("a", "b", "c"), list(itertools.product(THREE, repeat=3)))
def test_and_or_follow_kleenes_tables(a: bool | None, b: bool | None, c: bool | None) -> None:
    assert kleene("on('A') and on('B') and on('C')", A=a, B=b, C=c) is kleene_and(kleene_and(a, b), c)
    assert kleene("on('A') or on('B') or on('C')", A=a, B=b, C=c) is kleene_or(kleene_or(a, b), c)
    assert kleene("on('A') or on('B') and off('C')", A=a, B=b, C=c) is kleene_or(
        a, kleene_and(b, None if c is None else not c)
    )
    assert kleene("iff(on('A'), on('B'), on('C'))", A=a, B=b, C=c) is {True: b, False: c, None: None}[a]


@pytest.mark.parametrize(
    "quality",
    [q.QUESTIONABLE, q.INVALID, q.START, q.SUBSTITUTED, q.TEST, q.BLOCKED, q.QUESTIONABLE | q.COMM_LOST | q.OLD_DATA],
)
@pytest.mark.parametrize(
    "text",
    [
        "on('A')", "off('A')", "not on('A')", "not off('A')", "not (not on('A'))", "good('A')", "not good('A')",
        "v('A') == True", "v('A') != True", "v('A') < 5", "not v('A') > 5", "iff(good('A'), False, True)",
        "off('A') or on('A')", "v('A') == v('A')", "abs(v('A')) >= 0", "min(v('A'), 1) <= 1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [True, False, 3, "open", None])
def test_no_condition_over_a_bad_input_alone_ever_passes(text: str, quality: int, value: object) -> None:
    assert compile_expression(text, NAMES).passes(lambda _: Operand(value, quality, 1)) is None


def test_a_point_that_is_not_there_is_unknown() -> None:
    for text in ("on('A')", "not on('A')", "good('A')", "not good('A')", "v('A') != 1"):
        assert compile_expression(text, NAMES).passes(lambda _: None) is None


@pytest.mark.parametrize(
    ("value", "opened", "closed"),
    [
        ("open", True, False), ("closed", False, True), ("intermediate", None, None), ("bad", None, None),
        (True, False, True), (False, True, False), (1, None, None), (None, None, None), ("ein", None, None),
    ],
)  # fmt: skip
def test_a_switch_that_is_neither_open_nor_closed_is_unknown(value: object, opened: object, closed: object) -> None:
    def passes(text: str) -> bool | None:
        return compile_expression(text, NAMES).passes(lambda _: Operand(value, 0, 0))

    assert passes("open('A')") is opened
    assert passes("off('A')") is opened
    assert passes("closed('A')") is closed
    assert passes("on('A')") is closed


@pytest.mark.parametrize(
    ("text", "a", "b", "result"),
    [
        ("v('A') + v('B')", 1, 2.5, 3.5),
        ("v('A') - v('B') * 2", 1, 2, -3),
        ("-v('A') / v('B')", 1, 4, -0.25),
        ("v('A') / v('B')", 1, 0, None),
        ("v('A') * v('B')", 1e200, 1e200, None),
        ("v('A') * v('B')", 10**200, 10**200, None),
        ("v('A') + v('B')", 1, None, None),
        ("v('A') + v('B')", 1, True, None),
        ("v('A') + v('B')", 1, "x", None),
        ("v('A') + v('B')", 1, math.nan, None),
        ("min(v('A'), v('B'), 3)", 9, 5, 3),
        ("max(v('A'), abs(v('B')))", 1, -5, 5),
        ("iff(v('A') > 0, v('A'), v('B'))", -1, 7, 7),
        ("1 < v('A') <= v('B')", 2, 2, True),
        ("v('A') == 'auto'", "auto", 0, True),
        ("v('A') != 'auto'", "manual", 0, True),
        ("v('A') == 1", True, 0, None),
        ("v('A') < 1", math.nan, 0, None),
        ("on('A') or v('B') > 1", True, None, True),
    ],
)
def test_derived_values(text: str, a: object, b: object, result: object) -> None:
    points = {"A": Operand(a, 0, 1), "B": Operand(b, 0, 2)}
    outcome = compile_expression(text, NAMES).evaluate(points.get)
    assert outcome.value == result
    assert (outcome.value is None) == (q.validity(outcome.quality) == "invalid")


def test_a_derived_point_has_the_worst_quality_and_the_newest_time_of_all_its_inputs() -> None:
    points = {"A": Operand(1, q.QUESTIONABLE | q.COMM_LOST, 50), "B": Operand(2, q.TEST, 30)}
    outcome = compile_expression("v('A') + v('B')", NAMES).evaluate(points.get)
    assert outcome == Outcome(3, q.QUESTIONABLE | q.COMM_LOST | q.TEST, 50)


def test_an_input_that_decides_nothing_still_counts_for_the_quality() -> None:
    points = {"A": Operand(True, 0, 50), "B": Operand(True, q.INVALID | q.FAILURE, 30)}
    outcome = compile_expression("on('A') or on('B')", NAMES).evaluate(points.get)
    assert outcome == Outcome(True, q.INVALID | q.FAILURE, 50)


def test_good_of_a_bad_point_is_false_in_a_derived_point() -> None:
    expression = compile_expression("good('A')", NAMES)
    assert expression.evaluate(lambda _: Operand(1, q.QUESTIONABLE, 0)).value is False
    assert expression.evaluate(lambda _: Operand(1, q.SAMPLED, 0)).value is True


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("v('A')", Type.ANY),
        ("v('A') + 1", Type.NUMBER),
        ("v('A') > 1", Type.TRUTH),
        ("iff(on('A'), 1, 2)", Type.NUMBER),
    ],
)
def test_the_type_of_the_result_is_known_where_the_text_tells_it(text: str, kind: Type) -> None:
    assert compile_expression(text, NAMES).type is kind


def test_names_are_those_used_once_each_in_order() -> None:
    expression = compile_expression("on('B') and on('A') and not on('B')", NAMES)
    assert expression.names == ("B", "A")


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("closed('FDR12/DS/PSO')", 8, 'there is no point "FDR12/DS/PSO"; did you mean "FDR12/DS/POS"?'),
        ("on('Größe/Ä') and on('X')", 22, 'there is no point "X"'),
        ("closd('A')", 1, '"closd" is no function here; did you mean "closed"?'),
        ("on('A') AND on('B')", 9, "not understood"),
        ("on('A') && on('B')", 9, 'did you mean "and"?'),
        ("on('A') || on('B')", 9, 'did you mean "or"?'),
        ("!on('A')", 1, 'did you mean "not"?'),
        ("v('A') = 1", 8, 'did you mean "=="?'),
        ("on(A)", 1, "on takes one point's name in quotes"),
        ("on('A', 'B')", 1, "on takes one point's name in quotes"),
        ("A and on('B')", 1, "a point is written v('A')"),
        ("on('A') and (", 13, "not understood"),
        ("on('A') + 1", 1, "true or false stands here; a number is needed"),
        ("not 5", 5, "a number stands here; true or false is needed"),
        ("v('A') < 'x'", 1, "only numbers can be smaller or larger"),
        ("on('A') == 1", 12, "true or false cannot be compared with a number"),
        ("v('A') ** 2", 1, "BinOp is not allowed"),
        ("v('A') if on('B') else 1", 1, "IfExp is not allowed"),
        ("[v('A')]", 1, "List is not allowed"),
        ("(lambda: v('A'))()", 1, "not a function"),
        ("v('A').real", 1, "Attribute is not allowed"),
        ("__import__('os')", 1, '"__import__" is no function here'),
        ("min(v('A'))", 1, "min takes two numbers or more"),
        ("abs()", 1, "abs takes one number"),
        ("iff(on('A'), 1)", 1, "iff takes a condition and two values"),
        ("iff(on('A'), 1, True)", 1, "both must be of one sort"),
        ("min(v('A'), key=1)", 1, "takes no named arguments"),
        ("v('A') in ('x', 'y')", 1, "In is not allowed"),
        ("v('A') + 1e300", 10, "number too large"),
        ("v('A') + 1j", 10, "not allowed; constants are"),
        ("1 + 1", 1, "no point is named"),
        ("True", 1, "no point is named"),
        ("  ", 1, "empty"),
        ("  on('X')", 6, "there is no point"),
        ("v('A') + f'{1}'", 10, "JoinedStr is not allowed"),
        ("on('A')\0", 1, "not understood"),
    ],
)
def test_mistakes_name_the_column_and_what_is_allowed(text: str, column: int, says: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, NAMES)
    assert says in caught.value.message
    assert caught.value.column == column


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100 + "on('A')" + ")" * 100,
        "not " * 100 + "on('A')",
        "-" * 1900 + "v('A')",
        "abs(" * 60 + "v('A')" + ")" * 60,
        "1+" * 30 + "v('A')" + "+1" * 600,
        "1+" * 900 + "v('A')",
        "on('A')" + " " * 3000,
        "v('A') + " + "9" * 1900,
        "[" * 300,
    ],
)
def test_deep_and_endless_expressions_are_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        compile_expression(text, NAMES)


words = st.sampled_from(
    ["on('A')", "v('B')", "good('C')", "and", "or", "not", "(", ")", "+", "-", "*", "/", "<", "==", "1", "2.5", ",",
     "min(", "iff(", "True", "'", '"', "lambda", "x", ".", "[", "]", "{", "}", "if", "else", ":=", "@", "\\", "\n", "é"]
)  # fmt: skip


@settings(max_examples=400)
@given(st.text(max_size=60) | st.lists(words, max_size=25).map(" ".join))
def test_any_text_is_an_expression_or_an_expression_error(text: str) -> None:
    try:
        expression = compile_expression(text, NAMES)
    except ExpressionError:
        return
    for operand in (None, Operand(1, 0, 0), Operand(True, 0, 0), Operand("open", 0, 0), Operand(None, q.INVALID, 0)):
        outcome = expression.evaluate(lambda _, operand=operand: operand)
        assert outcome.value is not None or q.validity(outcome.quality) == "invalid"
        assert expression.passes(lambda _, operand=operand: operand) in (True, False, None)
