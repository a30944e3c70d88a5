"""Who may command what: the rights file, and Ed25519 signatures made with an operator's key.

Two words must agree: the topic's operator, which the broker's ACL ties to the login, and, where signatures are asked
for, the key that signed `topic ‖ payload`. Roles are named after IEC 62351-8. Nothing in a payload says who someone is.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from gatewayd.control.gates import Refusal
from gatewayd.control.keys import key_id, public_key, verified
from gatewayd.control.reasons import Reason
from gatewayd.control.types import Request
from gatewayd.points.types import PointSpec
from gatewayd.problems import ConfigError, Problem, listed, shown, suggestion
from gatewayd.toml_check import Source, checked

MOST_OCTETS = 1024 * 1024
EVERYTHING = "*"


class Role(StrEnum):
    """Roles of IEC 62351-8 that mean something here."""

    VIEWER = "VIEWER"
    OPERATOR = "OPERATOR"
    ENGINEER = "ENGINEER"
    SECADM = "SECADM"
    SECAUD = "SECAUD"


class Right(StrEnum):
    """What a request needs.

    CONTROL: select, operate, direct, cancel, clear; TEST: the same with `test`; TAG: tags, and removing one's own lock;
    INHIBIT: inhibits; OVERRIDE: removing another's personal lock
    """

    CONTROL = "control"
    TEST = "test"
    TAG = "tag"
    INHIBIT = "inhibit"
    OVERRIDE = "override"


GRANTS: Mapping[Role, frozenset[Right]] = {
    Role.VIEWER: frozenset(),
    Role.OPERATOR: frozenset({Right.CONTROL, Right.TEST, Right.TAG, Right.INHIBIT}),
    Role.ENGINEER: frozenset({Right.TEST, Right.TAG, Right.INHIBIT}),
    Role.SECADM: frozenset({Right.INHIBIT, Right.OVERRIDE}),
    Role.SECAUD: frozenset(),
}
_WITHOUT_FILE = GRANTS[Role.OPERATOR]


class OperatorTable(msgspec.Struct, forbid_unknown_fields=True):
    """`[operator.<name>]` of the rights file. areas, points: "*" is everything; points may have * and ?."""

    roles: list[str]
    areas: list[str] = []
    points: list[str] = []
    keys: list[str] = []


class RightsTable(msgspec.Struct, forbid_unknown_fields=True):
    """The whole rights file."""

    operator: dict[str, OperatorTable]


class Operator(msgspec.Struct, frozen=True):
    """One operator. keys: public keys (32 octets) by their id."""

    name: str
    roles: tuple[Role, ...]
    areas: tuple[str, ...]
    points: tuple[str, ...]
    keys: dict[str, bytes]

    @property
    def rights(self) -> frozenset[Right]:
        """What his roles grant, wherever he may."""
        return frozenset(right for role in self.roles for right in GRANTS[role])

    def reaches(self, spec: PointSpec) -> bool:
        """Whether the point is in one of his areas, or named."""
        return (
            EVERYTHING in self.areas
            or (bool(spec.area) and spec.area in self.areas)
            or any(fnmatchcase(spec.name, pattern) for pattern in self.points)
        )


class Rights:
    """Who may. operators None: there is no rights file, whoever the broker lets in may command.

    broken: why the rights file cannot be used, "" when it can: then nobody may. sha256: of the file
    """

    def __init__(self, operators: Mapping[str, Operator] | None = None, *, broken: str = "", sha256: str = "") -> None:
        self.operators = None if operators is None else dict(operators)
        self.broken = broken
        self.sha256 = sha256

    def identify(self, request: Request, *, signed: bool) -> Refusal | None:
        """Whether the operator is who the topic says. signed: every request must carry a signature."""
        if self.broken:
            return Refusal(Reason.NOT_AUTHORISED, f"nobody may command: {self.broken}")
        if self.operators is None:
            return None
        operator = self.operators.get(request.operator)
        if operator is None:
            return Refusal(Reason.NOT_AUTHORISED, f"{request.operator} is not in the rights file")
        if not request.key and not request.sig:
            return Refusal(Reason.NOT_AUTHORISED, "a signature is asked for and missing") if signed else None
        public = operator.keys.get(request.key)
        if public is None:
            detail = f"key {shown(request.key, 20)} is none of {request.operator}'s"
            return Refusal(Reason.NOT_AUTHORISED, detail)
        if not verified(public, request.raw_topic, request.raw_payload, request.sig):
            return Refusal(Reason.NOT_AUTHORISED, "the signature does not fit topic and payload")
        return None

    def may(self, operator: str, right: Right, specs: Iterable[PointSpec] | None) -> Refusal | None:
        """Whether an operator has a right for all these points; None: for the whole gateway."""
        if self.broken:
            return Refusal(Reason.NOT_AUTHORISED, f"nobody may command: {self.broken}")
        if self.operators is None:
            if right in _WITHOUT_FILE:
                return None
            return Refusal(Reason.NOT_AUTHORISED, f"the right to {right} needs a rights file that grants it")
        known = self.operators.get(operator)
        if known is None:
            return Refusal(Reason.NOT_AUTHORISED, f"{operator} is not in the rights file")
        if right not in known.rights:
            roles = ", ".join(known.roles) or "none"
            return Refusal(Reason.NOT_AUTHORISED, f"{operator} has not the right to {right} (roles: {roles})")
        if Role.SECADM in known.roles and right in GRANTS[Role.SECADM]:
            return None
        if specs is None:
            if EVERYTHING in known.areas:
                return None
            return Refusal(Reason.NOT_AUTHORISED, f'{operator} has not the whole gateway (areas = ["*"])')
        for spec in specs:
            if not known.reaches(spec):
                where = f"area {shown(spec.area)}" if spec.area else "no area"
                return Refusal(Reason.NOT_AUTHORISED, f"{spec.name} ({where}) is not {operator}'s")
        return None


def changes(before: Rights, after: Rights) -> list[str]:
    """What changed between two rights files, in words, for the audit trail. Keys by their ids."""
    old, new = before.operators or {}, after.operators or {}
    words = [f"- {name}" for name in sorted(old.keys() - new.keys())]
    for name in sorted(new):
        one = new[name]
        if old.get(name) != one:
            sign = "~" if name in old else "+"
            words.append(
                f"{sign} {name}: roles {','.join(one.roles)}; areas {','.join(one.areas)}; "
                f"points {','.join(one.points)}; keys {','.join(one.keys)}"
            )
    if after.broken:
        words.append(f"unusable: {after.broken}")
    return words


# --- the file -------------------------------------------------------------------------------------------------------


def path_of(name: str) -> Path:
    """The file behind a path, or behind the bare name of a systemd credential."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and "/" not in name and (Path(directory) / name).exists():
        return Path(directory) / name
    return Path(name)


def load(path: Path) -> Rights:
    """Read and check a rights file. Raises ConfigError with every mistake as file:line:column."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MOST_OCTETS + 1)
    except OSError as error:
        hint = (
            "" if len(path.parts) > 1 else "; a bare name is a systemd credential, ./name a file beside gatewayd.toml"
        )
        raise ConfigError([Problem(str(path), 1, 1, f"cannot be read: {error.strerror or error}{hint}")]) from None
    if len(data) > MOST_OCTETS:
        raise ConfigError([Problem(str(path), 1, 1, f"the file is larger than {MOST_OCTETS} octets")])
    if mode & stat.S_IWOTH:
        message = f"mode {mode:04o} lets everybody on this machine say who may command; 0644, 0640 or 0600 is allowed"
        raise ConfigError([Problem(str(path), 1, 1, message)])
    return parse(str(path), data)


def load_or_refuse(name: str) -> tuple[Rights, list[Problem]]:
    """The rights in force: with a file that cannot be used, nobody may. The mistakes are for the log."""
    if not name:
        return Rights(), []
    try:
        return load(path_of(name)), []
    except ConfigError as error:
        first = error.mistakes[0]
        more = f" (and {len(error.mistakes) - 1} more)" if len(error.mistakes) > 1 else ""
        return Rights({}, broken=f"the rights file has mistakes: {first}{more}"), error.mistakes


def parse(file: str, data: bytes) -> Rights:
    """The rights in a file's octets. Raises ConfigError."""
    problems: list[Problem] = []
    source = Source(file, data, problems)
    operators: dict[str, Operator] = {}
    if not problems:
        table, _ = checked(source, RightsTable, source.table, ())
        owners: dict[str, str] = {}
        for name, read in table.get("operator", {}).items():
            operators[name] = _operator(source, name, read, owners)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: (problem.line, problem.column)))
    return Rights(operators, sha256=hashlib.sha256(data).hexdigest())


def _operator(source: Source, name: str, read: Mapping[str, list[str]], owners: dict[str, str]) -> Operator:
    path = ("operator", name)
    if not name or len(name) > 64 or not all(c.isascii() and (c.isalnum() or c in "._@-") for c in name):
        source.mistake_of_key(path, f"operator: found {shown(name)}; 1 to 64 letters, digits and . _ @ - are allowed")
    roles = []
    for at, word in enumerate(read.get("roles", [])):
        if word in Role.__members__:
            roles.append(Role(word))
        else:
            hint = suggestion(word.upper(), Role)
            source.mistake((*path, "roles", at), f"roles: found {shown(word)}; {listed(Role)} is allowed{hint}")
    keys: dict[str, bytes] = {}
    for at, text in enumerate(read.get("keys", [])):
        try:
            public = public_key(text)
        except ValueError as error:
            source.mistake((*path, "keys", at), f"keys: {error}")
            continue
        id_ = key_id(public)
        if (owner := owners.setdefault(id_, name)) != name:
            source.mistake((*path, "keys", at), f"keys: found {id_}, which is {owner}'s; a key belongs to one operator")
        keys[id_] = public
    return Operator(name, tuple(roles), tuple(read.get("areas", [])), tuple(read.get("points", [])), keys)
