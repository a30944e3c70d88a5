"""Point lists: rows of a CSV or XLSX to checked PointSpecs, each mistake with its cell, all of them at once.

What can be judged in one row is judged here; what needs other points is in `crosscheck.py`, what needs the protocol
in its `config.py`. The columns are COLUMNS; docs/configuration.md explains them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from gatewayd.points.cells import PARSERS
from gatewayd.points.contacts import ContactPair
from gatewayd.points.sheet import Cell, Row, Sheet, read_sheet
from gatewayd.points.types import DOUBLE_STATES, ControlMode, Kind, LockScope, PointSpec
from gatewayd.problems import Problem, listed, printable, shown, suggestion

STATION = "station"
"""The pseudo-device whose list holds only derived points."""

NO_FEEDBACK = "none"
"""In the column `feedback`: the outcome is accepted-unsupervised, on purpose."""


class Draft(NamedTuple):
    """A point and the row it came from, for messages about it."""

    spec: PointSpec
    row: Row
    spreadsheet: bool = False

    def problem(self, column: str, message: str, offset: int = 0) -> Problem:
        """A mistake in this row's cell of that column (or at the row's end, where the cell is empty)."""
        cell = self.row.cells.get(column)
        at = self.row.end if cell is None else cell.column + (0 if self.spreadsheet else offset)
        prefix = "" if message.startswith(column) else f"{column}: "
        return Problem(self.spec.file, self.row.line, at, printable(prefix + message))


class PointList(NamedTuple):
    """The points of one list: rows in order, then the contacts of double points; and every mistake.

    unsure: rows of points whose kind, address or command is wrong, so that a protocol has nothing to say about them
    """

    drafts: list[Draft]
    pairs: list[ContactPair]
    problems: list[Problem]
    unsure: frozenset[int]


def read_points(
    path: Path, *, device: str = STATION, first_row: int = 0, file: str = "", data: bytes | None = None
) -> PointList:
    """Read and check a point list.

    device:    whose points these are; of `station` only derived points are allowed
    first_row: the row number of the first point; the others follow it
    file:      the name for messages, else the path
    data:      the file's octets where they have been read already
    Raises OSError where the file cannot be read; everything else is in `problems`.
    """
    sheet = read_sheet(path, path.read_bytes() if data is None else data, file or str(path))
    _check_header(sheet)
    drafts: list[Draft] = []
    unsure: set[int] = set()
    for at, row in enumerate(sheet.rows):
        drafts.append(_draft(sheet, row, device, first_row + at, unsure))
    pairs = []
    for double in [draft for draft in drafts if draft.spec.kind is Kind.DOUBLE and not draft.spec.derived]:
        addresses = contact_addresses(double.spec.address)
        if addresses is not None and double.spec.row not in unsure:
            row_number = first_row + len(drafts)
            contacts = _contacts(double.spec, addresses, row_number)
            drafts += [double._replace(spec=contact) for contact in contacts]
            pairs.append(ContactPair(double.spec.row, row_number, row_number + 1, double.spec.settle_ms))
    return PointList(drafts, pairs, sheet.problems, frozenset(unsure))


def contact_addresses(address: str) -> tuple[str, str] | None:
    """The addresses of a double point's open and closed contact (`BI:3|BI:4`), None where it is no such pair."""
    parts = [part.strip() for part in address.split("|")]
    return (parts[0], parts[1]) if len(parts) == 2 and all(parts) and parts[0] != parts[1] else None


def _contacts(double: PointSpec, addresses: tuple[str, str], row: int) -> list[PointSpec]:
    return [
        PointSpec(
            row=row + at,
            name=f"{double.name}#{which}",
            kind=Kind.BINARY,
            device=double.device,
            address=address,
            event=double.event,
            contact=True,
            bay=double.bay,
            area=double.area,
            file=double.file,
            line=double.line,
        )
        for at, (which, address) in enumerate(zip(("open", "closed"), addresses, strict=True))
    ]


COLUMNS = tuple(PARSERS)
NEEDED = ("point", "kind", "address")
_READ_BY_PROTOCOL = {"kind", "address", "control", "command", "check", "guard", "readback", "scale", "offset"}
_ONLY_WITH_CONTROL = (
    "command", "feedback", "feedback_timeout_s", "tolerance", "min", "max", "select_timeout_s",
    "local", "lock_scope", "check", "guard", "readback", "interlock",
)  # fmt: skip


# ---- header and rows


def _check_header(sheet: Sheet) -> None:
    seen: set[str] = set()
    for cell in sheet.header:
        name = cell.text.lower()

        def problem(message: str, cell: Cell = cell) -> None:
            sheet.problems.append(Problem(sheet.file, sheet.header_line, cell.column, message))

        if not name:
            problem("a column without a name; give it one or remove it")
        elif name not in PARSERS:
            hint = suggestion(name, COLUMNS) or f"; allowed are {', '.join(COLUMNS)}"
            problem(f"unknown column {shown(cell.text)}{hint}")
        elif name in seen:
            problem(f"column {shown(name)} stands twice; once is allowed")
        seen.add(name)
    missing = [name for name in NEEDED if name not in seen]
    if missing and sheet.header:
        message = f"column {listed(missing)} is missing; needed are {', '.join(NEEDED)}"
        sheet.problems.append(Problem(sheet.file, sheet.header_line, 1, message))
        sheet.rows.clear()  # every row would only repeat it


def _draft(sheet: Sheet, row: Row, device: str, number: int, unsure: set[int]) -> Draft:
    """The point of a row; where cells are wrong the rest still makes a point, so that others may refer to it."""
    fields: dict[str, Any] = {}
    wrong: set[str] = set()
    for column, cell in row.cells.items():
        parser = PARSERS.get(column)
        if parser is None:
            continue
        try:
            fields[column] = parser(cell.text)
        except ValueError as error:
            wrong.add(column)
            offset = 0 if sheet.spreadsheet else getattr(error, "offset", 0)
            sheet.problems.append(Problem(sheet.file, row.line, cell.column + offset, f"{column}: {error}"))
    for column in NEEDED:
        if column not in fields and column not in wrong:
            message = f"{column}: nothing found; every point needs {listed(NEEDED).replace(' or ', ' and ')}"
            sheet.problems.append(Problem(sheet.file, row.line, row.end, message))
            wrong.add(column)
    if "point" not in fields:  # go on under the name as written, so that what else is wrong is told too
        fields["point"] = row.cells["point"].text if "point" in row.cells else f"#{row.line}"
    kind: Kind = fields.setdefault("kind", Kind.BINARY)
    fields.setdefault("address", "")
    absolute, percent = fields.pop("deadband", (0.0, 0.0))
    derived = fields["address"].startswith("=")
    fields.setdefault("event", kind not in (Kind.ANALOG, Kind.COUNTER))
    if kind is Kind.DOUBLE:
        fields["states"] = {**DOUBLE_STATES, **fields.get("states", {})}
    spec = PointSpec(
        row=number,
        name=fields.pop("point"),
        device=device,
        deadband=absolute,
        deadband_percent=percent,
        derived=derived,
        file=sheet.file,
        line=row.line,
        **fields,
    )
    draft = Draft(spec, row, sheet.spreadsheet)
    if "kind" not in wrong:
        _check_kind(draft, sheet.problems, wrong)
        if "address" not in wrong and not _check_address(draft, sheet.problems):
            wrong.add("address")
    if "control" not in wrong and not _check_control(draft, sheet.problems, wrong):
        wrong.add("command")
    if wrong & _READ_BY_PROTOCOL:
        unsure.add(number)
    return draft


def _check_kind(draft: Draft, problems: list[Problem], wrong: set[str]) -> None:
    spec = draft.spec
    cells = {column: cell for column, cell in draft.row.cells.items() if column not in wrong}
    number = spec.kind in (Kind.ANALOG, Kind.COUNTER)
    if not number:
        problems.extend(
            draft.problem(column, f"means nothing with kind {spec.kind}; only with analog and counter")
            for column in ("scale", "offset", "deadband", "tolerance", "min", "max")
            if column in cells and not (spec.kind is Kind.ENUM and column in ("tolerance", "min", "max"))
        )
    if spec.kind is Kind.COUNTER:
        problems.extend(
            draft.problem(column, f"found {shown(cells[column].text)}; a counter takes whole numbers only")
            for column, factor in (("scale", spec.scale), ("offset", spec.offset))
            if column in cells and not factor.is_integer()
        )
    if spec.invert and spec.kind not in (Kind.BINARY, Kind.DOUBLE):
        problems.append(draft.problem("invert", f"means nothing with kind {spec.kind}; only with binary and double"))
    if "states" in cells:
        codes = {Kind.BINARY: (0, 1), Kind.DOUBLE: (0, 1, 2, 3)}.get(spec.kind)
        if number or spec.kind is Kind.STRING:
            message = f"means nothing with kind {spec.kind}; only with binary, double and enum"
            problems.append(draft.problem("states", message))
        elif codes is not None and (bad := sorted(set(spec.states) - set(codes))):
            message = f"found the code {bad[0]}; a {spec.kind} point has the codes {', '.join(map(str, codes))}"
            problems.append(draft.problem("states", message))
    if spec.min is not None and spec.max is not None and spec.min > spec.max:
        problems.append(draft.problem("min", f"found {spec.min:g}, above max {spec.max:g}; min must not be above max"))


def _check_address(draft: Draft, problems: list[Problem]) -> bool:
    """True where the address is fit to be judged by the protocol."""
    spec, before = draft.spec, len(problems)
    if spec.device == STATION and spec.address and not spec.derived:
        message = (
            f"found {shown(spec.address)}; the station list holds derived points only, as in = v('A/B') + v('C/D')"
        )
        problems.append(draft.problem("address", message))
    pair = not spec.derived and spec.device != STATION and "|" in spec.address
    if pair:
        parts = [part.strip() for part in spec.address.split("|")]
        if len(parts) != 2 or not all(parts):
            message = f"found {shown(spec.address)}; a pair is open contact | closed contact, as in BI:3|BI:4"
            problems.append(draft.problem("address", message))
        elif spec.kind is not Kind.DOUBLE:
            problems.append(
                draft.problem("address", f"found a pair of contacts; the kind must be double, not {spec.kind}")
            )
        elif parts[0] == parts[1]:
            problems.append(draft.problem("address", f"found {shown(parts[0])} for both contacts; they must differ"))
    if "settle_ms" in draft.row.cells and not pair:
        problems.append(draft.problem("settle_ms", "only for a double point made of two contacts, as in BI:3|BI:4"))
    if spec.derived and spec.kind not in (Kind.BINARY, Kind.ANALOG, Kind.COUNTER):
        problems.append(draft.problem("kind", f"found {spec.kind}; a derived point is binary, analog or counter"))
    return len(problems) == before


def _check_control(draft: Draft, problems: list[Problem], wrong: set[str]) -> bool:
    """True where the command is fit to be judged by the protocol."""
    spec, cells = draft.spec, draft.row.cells
    if spec.control is ControlMode.NONE:
        idle = [column for column in _ONLY_WITH_CONTROL if column in cells and column not in wrong]
        if idle:
            what = listed(idle).replace(" or ", " and ")
            problems.append(
                draft.problem(idle[0], f"{what} without control; set control to sbo or direct, or leave it empty")
            )
        return not idle
    if spec.derived:
        problems.append(draft.problem("control", f"found {spec.control}; a derived point cannot be commanded"))
        return False
    if not spec.command and "command" not in wrong:
        message = f"nothing found, but control is {spec.control}; the address and form of the command are needed"
        problems.append(draft.problem("command", message))
    if spec.invert:
        message = (
            "found yes together with a command; invert in the device or command another point, it would change meaning"
        )
        problems.append(draft.problem("invert", message))
    if spec.lock_scope is LockScope.BAY and not spec.bay and "bay" not in wrong:
        problems.append(draft.problem("lock_scope", "found bay, but the point names no bay; fill in the column bay"))
    return bool(spec.command)
