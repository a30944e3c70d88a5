"""Expressions over points, for interlocks and derived points: a few nodes of Python's grammar, three-valued logic.

    closed('FDR12/DS/POS') and not on('FDR12/LOCAL')
    v('FDR12/MMXU/P') + v('FDR13/MMXU/P')

Unknown is neither true nor false: `not` unknown is unknown, `and` with a false is false, `or` with a true is true, all
else with an unknown is unknown (Kleene). Nothing is ever given to eval: the text is parsed, checked node by node and
built into closures. Text, nesting and constants are bounded.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Container, Iterable
from enum import Enum
from typing import Any, NamedTuple

from gatewayd.points import quality as q
from gatewayd.points.types import Value
from gatewayd.problems import listed, shown, suggestion

LONGEST_TEXT = 2000
DEEPEST_NESTING = 40
MOST_NODES = 500
LARGEST_NUMBER = 1e15

WORDS = ("and", "or", "not", "True", "False")
FUNCTIONS = ("v", "on", "off", "open", "closed", "good", "min", "max", "abs", "iff")


class ExpressionError(Exception):
    """The expression cannot be used; column counts characters of the text from 1."""

    def __init__(self, message: str, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.column = column


class Operand(NamedTuple):
    """What is known of one point: engineering value, quality bits, UTC ns."""

    value: Value
    quality: int
    time_ns: int


class Outcome(NamedTuple):
    """The result of an expression: value (None is unknown, then the quality is invalid), quality bits, UTC ns."""

    value: Value
    quality: int
    time_ns: int


class Type(Enum):
    """What a node yields, as far as the text tells; ANY is a point's value."""

    TRUTH = "true or false"
    NUMBER = "a number"
    TEXT = "a text"
    ANY = "a value"


Lookup = Callable[[str], Operand | None]
Node = Callable[[Lookup, bool], Value]
"""Evaluates with a lookup; the second argument is True for a condition, where only usable inputs count."""


class Expression:
    """A checked expression. `names` are the points it uses, `type` what it yields."""

    __slots__ = ("_node", "names", "text", "type")

    def __init__(self, text: str, names: tuple[str, ...], kind: Type, node: Node) -> None:
        self.text = text
        self.names = names
        self.type = kind
        self._node = node

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def passes(self, lookup: Lookup) -> bool | None:
        """The verdict of an interlock or condition; None is unknown, and only True permits anything.

        An input that is not `usable` (bad, questionable, stale, substituted, under test, blocked) or not there makes
        its term unknown; `good` of such a point is unknown too, so that no bad input can ever satisfy a condition.
        """
        value = self._node(lookup, True)
        return value if value is True or value is False else None

    def evaluate(self, lookup: Lookup) -> Outcome:
        """The value of a derived point: the worst quality of all inputs, the newest of their times.

        An input without a value, a division by zero, an overflow: value None, quality invalid.
        """
        quality = time_ns = 0
        for name in self.names:
            operand = lookup(name)
            if operand is None:
                quality = q.worst(quality, q.START)
                continue
            quality = q.worst(quality, operand.quality)
            time_ns = max(time_ns, operand.time_ns)
        value = self._node(lookup, False)
        if value is None:
            quality = q.worst(quality, q.INVALID)
        return Outcome(value, quality, time_ns)


def compile_expression(text: str, names: Container[str]) -> Expression:
    """Parse and check an expression. `names` are the points that exist.

    Raises ExpressionError with the column, and nothing else, for any text whatever.
    """
    if len(text) > LONGEST_TEXT:
        raise ExpressionError(f"{len(text)} characters; at most {LONGEST_TEXT} are allowed", LONGEST_TEXT + 1)
    start = len(text) - len(text.lstrip())
    source = text.strip().replace("\n", " ").replace("\r", " ")
    if not source:
        raise ExpressionError("empty; a condition over points is expected", 1)
    _bound_nesting(source, start)
    compiler = _Compiler(source, start, names)
    node, kind = compiler.build(_parse(source, start), 0)
    if not compiler.names:
        raise ExpressionError("no point is named; at least one is needed, as in v('A/B')", start + 1)
    if kind is Type.TEXT:
        raise ExpressionError("yields a text; a number or true/false is expected", start + 1)
    return Expression(source, tuple(compiler.names), kind, node)


def _bound_nesting(source: str, start: int) -> None:
    depth = 0
    for at, char in enumerate(source):
        depth += (char in "([{") - (char in ")]}")
        if depth > DEEPEST_NESTING:
            raise ExpressionError(f"nested too deep; at most {DEEPEST_NESTING} levels are allowed", start + at + 1)


_HINTS = (
    (re.compile(r"&&?"), "and"),
    (re.compile(r"\|\|?"), "or"),
    (re.compile(r"!(?!=)"), "not"),
    (re.compile(r"(?<![=<>!])=(?!=)"), "=="),
    (re.compile(r"<>"), "!="),
)


def _parse(source: str, start: int) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" and the like: refused below or harmless
            return ast.parse(source, mode="eval").body
    except SyntaxError as error:
        column = min(max(error.offset or 1, 1), len(source) + 1)
        hint = ""
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", lambda quoted: " " * len(quoted[0]), source)
        for pattern, word in _HINTS:
            if found := pattern.search(bare):
                column, hint = found.start() + 1, f'; did you mean "{word}"?'
                break
        message = (error.msg or "not understood").split("(")[0].strip()
        raise ExpressionError(f"not understood: {message}{hint}", start + column) from None
    except (ValueError, MemoryError, RecursionError) as error:
        raise ExpressionError(f"not understood: {type(error).__name__}", start + 1) from None


_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
Number = int | float
_ARITHMETIC: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class _Compiler:
    """Builds closures from syntax nodes; collects the names used."""

    def __init__(self, source: str, start: int, names: Container[str]) -> None:
        self._octets = source.encode()
        self._start = start
        self._known = names
        self._nodes = 0
        self.names: dict[str, None] = {}

    def _error(self, message: str, node: ast.AST) -> ExpressionError:
        offset = getattr(node, "col_offset", 0)  # in octets of UTF-8
        column = len(self._octets[:offset].decode(errors="replace"))
        return ExpressionError(message, self._start + column + 1)

    def build(self, node: ast.expr, depth: int) -> tuple[Node, Type]:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise self._error(f"too long; at most {MOST_NODES} terms are allowed", node)
        if depth > DEEPEST_NESTING:
            raise self._error(f"nested too deep; at most {DEEPEST_NESTING} levels are allowed", node)
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.BoolOp(op=op, values=values):
                terms = [self._of(Type.TRUTH, value, depth) for value in values]
                return (_all if isinstance(op, ast.And) else _any)(terms), Type.TRUTH
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return _not(self._of(Type.TRUTH, operand, depth)), Type.TRUTH
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _arithmetic(operator.sub, _always(0), self._of(Type.NUMBER, operand, depth)), Type.NUMBER
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return _arithmetic(operator.add, _always(0), self._of(Type.NUMBER, operand, depth)), Type.NUMBER
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                first, second = self._of(Type.NUMBER, left, depth), self._of(Type.NUMBER, right, depth)
                return _arithmetic(_ARITHMETIC[type(op)], first, second), Type.NUMBER
            case ast.Compare():
                return self._comparison(node, depth), Type.TRUTH
            case ast.Call():
                return self._call(node, depth)
            case ast.Name(id=name):
                hint = suggestion(name, [*WORDS, *FUNCTIONS]) or f"; a point is written v('{name}')"
                raise self._error(f'"{name}" is not known here{hint}', node)
        raise self._error(
            f"{type(node).__name__} is not allowed; allowed are {', '.join(WORDS)}, comparisons, + - * /, numbers "
            f"and {listed(FUNCTIONS)}",
            node,
        )

    def _of(self, wanted: Type, node: ast.expr, depth: int) -> Node:
        built, kind = self.build(node, depth + 1)
        if kind not in (wanted, Type.ANY):
            raise self._error(f"{kind.value} stands here; {wanted.value} is needed", node)
        return built

    def _constant(self, node: ast.Constant) -> tuple[Node, Type]:
        value = node.value
        if isinstance(value, bool):
            return _always(value), Type.TRUTH
        if isinstance(value, (int, float)):
            if not abs(value) <= LARGEST_NUMBER:
                raise self._error(f"number too large; at most {LARGEST_NUMBER:g} is allowed", node)
            return _always(value), Type.NUMBER
        if isinstance(value, str):
            return _always(value), Type.TEXT
        raise self._error("not allowed; constants are numbers, True, False and quoted names or texts", node)

    def _comparison(self, node: ast.Compare, depth: int) -> Node:
        pairs: list[Node] = []
        sides = [node.left, *node.comparators]
        for op in node.ops:
            if type(op) not in _COMPARE:
                raise self._error(f"{type(op).__name__} is not allowed; comparisons are == != < <= > >=", node)
        built = [self.build(side, depth + 1) for side in sides]
        for at, op in enumerate(node.ops):
            compare = _COMPARE[type(op)]
            (left, left_kind), (right, right_kind) = built[at], built[at + 1]
            kinds = {left_kind, right_kind} - {Type.ANY}
            if len(kinds) == 2:
                raise self._error(f"{left_kind.value} cannot be compared with {right_kind.value}", sides[at + 1])
            ordered = not isinstance(op, (ast.Eq, ast.NotEq))
            if ordered and kinds - {Type.NUMBER}:
                raise self._error("only numbers can be smaller or larger", sides[at])
            pairs.append(_compare(compare, left, right, ordered=ordered))
        return pairs[0] if len(pairs) == 1 else _all(pairs)

    def _call(self, node: ast.Call, depth: int) -> tuple[Node, Type]:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS:
            what = f'"{name}" is no function here{suggestion(name, FUNCTIONS)}' if name else "not a function"
            raise self._error(f"{what}; allowed are {listed(FUNCTIONS)}", node)
        if node.keywords:
            raise self._error(f"{name} takes no named arguments", node)
        count = len(node.args)
        if name in ("min", "max"):
            if count < 2:
                raise self._error(f"{name} takes two numbers or more", node)
            numbers = [self._of(Type.NUMBER, argument, depth) for argument in node.args]
            return _extreme(min if name == "min" else max, numbers), Type.NUMBER
        if name == "abs":
            if count != 1:
                raise self._error("abs takes one number", node)
            return _abs(self._of(Type.NUMBER, node.args[0], depth)), Type.NUMBER
        if name == "iff":
            return self._iff(node, depth)
        return self._input(name, node)

    def _iff(self, node: ast.Call, depth: int) -> tuple[Node, Type]:
        if len(node.args) != 3:
            raise self._error("iff takes a condition and two values: iff(condition, a, b)", node)
        condition = self._of(Type.TRUTH, node.args[0], depth)
        (a, a_kind), (b, b_kind) = (self.build(argument, depth + 1) for argument in node.args[1:])
        kinds = {a_kind, b_kind} - {Type.ANY}
        if len(kinds) == 2:
            raise self._error(f"iff yields {a_kind.value} or {b_kind.value}; both must be of one sort", node)
        return _iff(condition, a, b), next(iter(kinds), Type.ANY)

    def _input(self, function: str, node: ast.Call) -> tuple[Node, Type]:
        argument = node.args[0] if len(node.args) == 1 else None
        if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
            raise self._error(f"{function} takes one point's name in quotes: {function}('FDR12/CB/POS')", node)
        name = argument.value
        if name not in self._known:
            hint = suggestion(name, self._known) if isinstance(self._known, Iterable) else ""
            raise self._error(f"there is no point {shown(name)}{hint}", argument)
        self.names[name] = None
        if function == "v":
            return _value(name), Type.ANY
        if function == "good":
            return _good(name), Type.TRUTH
        return _state(name, _TRUE_WHEN[function]), Type.TRUTH


_ON: dict[Value, bool] = {True: True, False: False, "closed": True, "open": False, "on": True, "off": False}
_OFF: dict[Value, bool] = {word: not truth for word, truth in _ON.items()}
_TRUE_WHEN = {"on": _ON, "closed": _ON, "off": _OFF, "open": _OFF}
"""Every other value (intermediate, bad, a number, nothing) is unknown: a moving switch is neither open nor closed."""


def _input_value(lookup: Lookup, name: str, *, condition: bool) -> Value:
    operand = lookup(name)
    if operand is None or (condition and not q.usable(operand.quality)):
        return None
    return operand.value


def _value(name: str) -> Node:
    return lambda lookup, condition: _input_value(lookup, name, condition=condition)


def _state(name: str, table: dict[Value, bool]) -> Node:
    def state(lookup: Lookup, condition: bool) -> Value:
        value = _input_value(lookup, name, condition=condition)
        return table.get(value) if isinstance(value, (bool, str)) else None

    return state


def _good(name: str) -> Node:
    def good(lookup: Lookup, condition: bool) -> Value:
        operand = lookup(name)
        if operand is not None and operand.value is not None and q.usable(operand.quality):
            return True
        return None if condition else False

    return good


def _always(value: Value) -> Node:
    return lambda _lookup, _condition: value


def _not(term: Node) -> Node:
    def negation(lookup: Lookup, condition: bool) -> Value:
        value = term(lookup, condition)
        return not value if isinstance(value, bool) else None

    return negation


def _all(terms: list[Node]) -> Node:
    def conjunction(lookup: Lookup, condition: bool) -> Value:
        result: Value = True
        for term in terms:
            value = term(lookup, condition)
            if value is False:
                return False
            if value is not True:
                result = None
        return result

    return conjunction


def _any(terms: list[Node]) -> Node:
    def disjunction(lookup: Lookup, condition: bool) -> Value:
        result: Value = False
        for term in terms:
            value = term(lookup, condition)
            if value is True:
                return True
            if value is not False:
                result = None
        return result

    return disjunction


def _number(value: Value) -> Number | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value


def _finite(value: Number) -> Number | None:
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer that no float can hold
        return None


def _arithmetic(apply: Callable[[Number, Number], Number], left: Node, right: Node) -> Node:
    def arithmetic(lookup: Lookup, condition: bool) -> Value:
        a, b = _number(left(lookup, condition)), _number(right(lookup, condition))
        if a is None or b is None:
            return None
        try:
            return _finite(apply(a, b))
        except (ZeroDivisionError, OverflowError):
            return None

    return arithmetic


def _extreme(pick: Callable[..., Number], numbers: list[Node]) -> Node:
    def extreme(lookup: Lookup, condition: bool) -> Value:
        values = [value for node in numbers if (value := _number(node(lookup, condition))) is not None]
        return pick(values) if len(values) == len(numbers) else None

    return extreme


def _abs(number: Node) -> Node:
    def absolute(lookup: Lookup, condition: bool) -> Value:
        value = _number(number(lookup, condition))
        return None if value is None else abs(value)

    return absolute


def _iff(test: Node, a: Node, b: Node) -> Node:
    def choice(lookup: Lookup, condition: bool) -> Value:
        verdict = test(lookup, condition)
        if verdict is True:
            return a(lookup, condition)
        return b(lookup, condition) if verdict is False else None

    return choice


def _compare(apply: Callable[[Any, Any], bool], left: Node, right: Node, *, ordered: bool) -> Node:
    def comparison(lookup: Lookup, condition: bool) -> Value:
        a, b = left(lookup, condition), right(lookup, condition)
        x, y = _number(a), _number(b)
        if x is not None and y is not None:
            # `nan` compares as false with everything, and a false is an answer; it must be no answer
            return apply(x, y) if x == x and y == y else None
        alike = type(a) is type(b) and a is not None
        return apply(a, b) if alike and not ordered else None

    return comparison
