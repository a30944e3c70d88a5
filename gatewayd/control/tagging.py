"""Requests for tags and inhibits: who may hang what where, and who may take it away. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gatewayd.control.gates import Refusal
from gatewayd.control.identity import Right, Rights
from gatewayd.control.reasons import Reason
from gatewayd.control.tags import GATEWAY, MOST_ON_ONE, MOST_TAGS, Board, Tag, TagKind, Wish, concerned
from gatewayd.points.types import PointSpec
from gatewayd.problems import listed, shown, suggestion

FEW = 10
"""As many names are listed in an answer."""


def placed(
    wish: Wish, operator: str, board: Board, specs: Mapping[str, PointSpec], rights: Rights, *, new_id: str, now_ns: int
) -> Tag | Refusal:
    """The tag a wish asks for, or why it cannot be hung. now_ns: UTC."""
    points = concerned(wish.on, specs.values())
    if not points and wish.on != GATEWAY:
        return Refusal(Reason.UNKNOWN_POINT, _nothing_there(wish.on, specs))
    right = Right.INHIBIT if wish.kind is TagKind.INHIBIT else Right.TAG
    if (refusal := rights.may(operator, right, None if wish.on == GATEWAY else points)) is not None:
        return refusal
    if len(board) >= MOST_TAGS:
        return Refusal(Reason.RATE_LIMITED, f"{MOST_TAGS} tags hang already; no more are allowed")
    if len(board.on(wish.on)) >= MOST_ON_ONE:
        return Refusal(Reason.RATE_LIMITED, f"{MOST_ON_ONE} tags hang on {wish.on} already; no more are allowed")
    return Tag(id=new_id, kind=wish.kind, on=wish.on, owner=operator, note=wish.note, time_ns=now_ns)


def _nothing_there(on: str, specs: Mapping[str, PointSpec]) -> str:
    scope, _, name = on.partition("/")
    known = {
        "point": list(specs),
        "bay": sorted({spec.bay for spec in specs.values() if spec.bay}),
        "device": sorted({spec.device for spec in specs.values()}),
    }
    if scope not in known:
        return f"on: found {shown(on)}; gateway, device/<device>, bay/<bay> or point/<point> is allowed"
    hint = suggestion(name, known[scope])
    if not hint and 0 < len(known[scope]) <= FEW:
        hint = f"; {listed(known[scope])} is allowed"
    return f"there is no {scope} {shown(name)}{hint}"


def removed(
    wish: Wish, operator: str, board: Board, specs: Mapping[str, PointSpec], rights: Rights, *, inhibit: bool
) -> Tag | Refusal:
    """The tag a wish takes away, or why it stays."""
    tag = board.get(wish.remove)
    if tag is None or (tag.kind is TagKind.INHIBIT) is not inhibit:
        what = "inhibit" if inhibit else "tag"
        return Refusal(Reason.BAD_REQUEST, f"there is no {what} {shown(wish.remove)}")
    if tag.kind is TagKind.PERSONAL_LOCK and tag.owner != operator:
        if not wish.force:
            return Refusal(Reason.NOT_AUTHORISED, f"the lock is {tag.owner}'s; a SECADM can remove it with force")
        return rights.may(operator, Right.OVERRIDE, ()) or tag
    points = concerned(tag.on, specs.values())
    right = Right.INHIBIT if inhibit else Right.TAG
    if tag.on != GATEWAY and not points:  # what it hung on left the configuration
        return rights.may(operator, right, ()) or tag
    return rights.may(operator, right, None if tag.on == GATEWAY else points) or tag
