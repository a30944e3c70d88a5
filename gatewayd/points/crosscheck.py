"""What can only be judged over all points: names, feedback, interlocks, derived points and their order. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

from gatewayd.points.expressions import Expression, ExpressionError, Type, compile_expression
from gatewayd.points.pointlist import NO_FEEDBACK, Draft
from gatewayd.points.types import ControlMode, Kind, PointSpec
from gatewayd.problems import Problem, shown, suggestion


class Derived(NamedTuple):
    """A derived point's row and its expression; `Expression.evaluate` gives its raw value."""

    row: int
    expression: Expression


class Checked(NamedTuple):
    """What comes out: compiled expressions by row; derived points in the order in which they must be evaluated."""

    problems: list[Problem]
    interlocks: dict[int, Expression]
    locals: dict[int, Expression]
    derived: list[Derived]


def cross_check(drafts: Sequence[Draft], own_feedback: AbstractSet[int]) -> Checked:
    """Check the points of all lists together.

    own_feedback: rows of points that prove their own operation, so that no feedback has to be named
    """
    checked = Checked([], {}, {}, [])
    published = [draft for draft in drafts if not draft.spec.contact]
    by_name = _unique(published, checked.problems)
    formulas: dict[str, tuple[Draft, Expression]] = {}
    for draft in published:
        spec = draft.spec
        if spec.interlock:
            _condition(draft, "interlock", spec.interlock, by_name, checked.interlocks, checked.problems)
        if spec.local:
            _condition(draft, "local", spec.local, by_name, checked.locals, checked.problems)
        if spec.control is not ControlMode.NONE:
            _feedback(draft, by_name, own_feedback, checked.problems)
        if spec.derived:
            text = spec.address.removeprefix("=")
            formula = _compiled(draft, "address", text, by_name, checked.problems, offset=1)
            if formula is not None and by_name[spec.name] is draft:
                _result_type(draft, formula, checked.problems)
                formulas[spec.name] = draft, formula
    checked.derived.extend(_ordered(formulas, checked.problems))
    return checked


def _unique(drafts: Sequence[Draft], problems: list[Problem]) -> dict[str, Draft]:
    by_name: dict[str, Draft] = {}
    for draft in drafts:
        first = by_name.setdefault(draft.spec.name, draft)
        if first is not draft:
            where = f"{first.spec.file}:{first.spec.line}"
            message = (
                f"found {shown(draft.spec.name)} a second time, first in {where}; names are unique over all devices"
            )
            problems.append(draft.problem("point", message))
    return by_name


def _compiled(
    draft: Draft, column: str, text: str, names: Mapping[str, Draft], problems: list[Problem], offset: int = 0
) -> Expression | None:
    try:
        return compile_expression(text, names)
    except ExpressionError as error:
        problems.append(draft.problem(column, error.message, offset + error.column - 1))
        return None


def _condition(
    draft: Draft,
    column: str,
    text: str,
    names: Mapping[str, Draft],
    into: dict[int, Expression],
    problems: list[Problem],
) -> None:
    expression = _compiled(draft, column, text, names, problems)
    if expression is None:
        return
    if expression.type is Type.NUMBER:
        problems.append(draft.problem(column, "yields a number; it must be true or false"))
        return
    into[draft.spec.row] = expression


def _result_type(draft: Draft, expression: Expression, problems: list[Problem]) -> None:
    kind = draft.spec.kind
    if kind is Kind.BINARY and expression.type is Type.NUMBER:
        problems.append(draft.problem("kind", "found binary, but the expression yields a number; use analog"))
    if kind in (Kind.ANALOG, Kind.COUNTER) and expression.type is Type.TRUTH:
        problems.append(draft.problem("kind", f"found {kind}, but the expression yields true or false; use binary"))


def _feedback(draft: Draft, by_name: Mapping[str, Draft], own: AbstractSet[int], problems: list[Problem]) -> None:
    spec = draft.spec
    if not spec.feedback:
        if spec.row not in own:
            message = "nothing found; name the point that proves the operation, or none (accepted-unsupervised)"
            problems.append(draft.problem("feedback", message))
        return
    if spec.feedback == NO_FEEDBACK:
        return
    proof = by_name.get(spec.feedback)
    if proof is None:
        hint = suggestion(spec.feedback, by_name)
        problems.append(draft.problem("feedback", f"there is no point {shown(spec.feedback)}{hint}"))
    elif proof.spec.address.upper().startswith(("BO:", "CO:")):
        message = (
            f"{spec.feedback} is the status of an output ({proof.spec.address}), which follows the command and proves "
            "nothing; name a point that reads the switch itself, or none"
        )
        problems.append(draft.problem("feedback", message))


def _ordered(formulas: Mapping[str, tuple[Draft, Expression]], problems: list[Problem]) -> list[Derived]:
    """Derived points, each after those it uses; a cycle is a mistake at each of its points."""
    remaining = dict(formulas)
    while True:
        graph = {
            name: {used for used in expression.names if used in remaining}
            for name, (_, expression) in remaining.items()
        }
        try:
            return [Derived(spec.row, remaining[spec.name][1]) for spec in _specs(graph, remaining)]
        except CycleError as error:
            cycle: list[str] = error.args[1][::-1]  # graphlib lists it from the used to the user
            shown_cycle = " -> ".join(cycle)
            for name in dict.fromkeys(cycle):
                draft, _ = remaining.pop(name)
                problems.append(draft.problem("address", f"derived points that use each other: {shown_cycle}"))


def _specs(graph: Mapping[str, set[str]], formulas: Mapping[str, tuple[Draft, Expression]]) -> list[PointSpec]:
    return [formulas[name][0].spec for name in TopologicalSorter(graph).static_order()]
