"""Reads a table from CSV or XLSX into rows of cells that know where they stand. Knows nothing of points.

CSV: UTF-8 with or without a mark; comma, semicolon or tab, whichever the header uses; cells may be quoted; one row is
one line. XLSX: the sheet `points`, else the first; values only. In both, empty rows and rows that begin with `#` are
left out, and the first row that remains is the header.
"""

from __future__ import annotations

import datetime
import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import openpyxl
from openpyxl.utils import get_column_letter

from gatewayd.problems import Problem, shown

MOST_OCTETS = 64 * 1024 * 1024
MOST_ROWS = 200_000
MOST_COLUMNS = 256


class Cell(NamedTuple):
    """A cell's text, trimmed, and the column where it begins: a character of the line, or a column of the sheet."""

    text: str
    column: int


class Row(NamedTuple):
    """One row. Cells that are empty are not in it; `end` is the column to name when a needed one is missing."""

    line: int
    cells: dict[str, Cell]
    end: int = 1


class Sheet(NamedTuple):
    """A table: header cells in order, rows, and what was wrong with the file itself."""

    file: str
    header: list[Cell]
    header_line: int
    rows: list[Row]
    problems: list[Problem]
    spreadsheet: bool = False
    """Columns count cells, not characters."""


def read_sheet(path: Path, data: bytes, file: str) -> Sheet:
    """The table in these octets; `path` tells by its suffix what it is, `file` is its name in messages."""
    sheet = Sheet(file, [], 1, [], [], spreadsheet=path.suffix.lower() in (".xlsx", ".xlsm"))
    if len(data) > MOST_OCTETS:
        sheet.problems.append(Problem(file, 1, 1, f"{len(data)} octets; at most {MOST_OCTETS} are allowed"))
        return sheet
    lines = _xlsx(data, sheet) if sheet.spreadsheet else _csv(data, sheet)
    return _with_header(lines, sheet)


def _with_header(lines: Iterator[tuple[int, list[Cell]]], sheet: Sheet) -> Sheet:
    header: list[Cell] | None = None
    names: list[str] = []
    for line, cells in lines:
        if not any(cell.text for cell in cells) or cells[0].text.startswith("#"):
            continue
        if header is None:
            header = list(cells)
            while header and not header[-1].text:
                header.pop()
            names = [cell.text.lower() for cell in header]
            sheet = sheet._replace(header=header, header_line=line)
            continue
        row = {name: cell for name, cell in zip(names, cells, strict=False) if cell.text}
        for extra in cells[len(names) :]:
            if extra.text:
                found = f"{shown(extra.text)} stands in a column without a name"
                more = f"a row has {len(names)} cells; a cell that holds the delimiter must be in quotes"
                sheet.problems.append(Problem(sheet.file, line, extra.column, f"{found}; {more}"))
        sheet.rows.append(Row(line, row, cells[-1].column))
        if len(sheet.rows) > MOST_ROWS:
            sheet.problems.append(Problem(sheet.file, line, 1, f"more rows than {MOST_ROWS}, which is the limit"))
            break
    if header is None and not sheet.problems:
        sheet.problems.append(Problem(sheet.file, 1, 1, "no header row; the first row must name the columns"))
    return sheet


def decode_utf8(data: bytes, file: str) -> str | Problem:
    """The text of a file, its byte order mark taken off; the place of the first octet that is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        begin = data.rfind(b"\n", 0, error.start) + 1
        column = len(data[begin : error.start].decode("utf-8", errors="replace").removeprefix("\ufeff")) + 1
        kind = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else f"octet 0x{data[error.start]:02X}"
        return Problem(file, line, column, f"{kind} is not UTF-8; save the file as UTF-8 (in Excel: CSV UTF-8)")


# ---- CSV

_QUOTED = re.compile(r'[ \t]*"((?:[^"]|"")*)"[ \t]*')


def _csv(data: bytes, sheet: Sheet) -> Iterator[tuple[int, list[Cell]]]:
    text = decode_utf8(data, sheet.file)
    if isinstance(text, Problem):
        sheet.problems.append(text)
        return
    delimiter = ""
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if not line or line.isspace() or line.lstrip().startswith(("#", '"#')):
            continue
        if not delimiter:
            if number == 1 and line.lower().startswith("sep=") and len(line) == 5:
                delimiter = line[4]  # what Excel writes and reads to say it
                continue
            delimiter = max(",;\t", key=line.count)
        cells = _split(line, delimiter)
        if isinstance(cells, int):
            message = 'the quote is not closed or text follows it; a cell is "…" on one line, a quote inside it ""'
            sheet.problems.append(Problem(sheet.file, number, cells, message))
            continue
        yield number, cells


def _split(line: str, delimiter: str) -> list[Cell] | int:
    """The cells of a line, or the column of a quote that is wrong."""
    cells = []
    if '"' not in line:
        at = 1
        for text in line.split(delimiter):
            stripped = text.strip()
            cells.append(Cell(stripped, at + (text.find(stripped) if stripped else 0)))
            at += len(text) + 1
        return cells
    at = 0
    while True:
        if quoted := _QUOTED.match(line, at):
            inner = quoted[1]
            leading = len(inner) - len(inner.lstrip())
            cells.append(Cell(inner.replace('""', '"').strip(), quoted.start(1) + leading + 1))
            end = quoted.end()
        else:
            end = line.find(delimiter, at)
            end = len(line) if end < 0 else end
            text = line[at:end]
            stripped = text.strip()
            if stripped.startswith('"'):
                return at + text.find('"') + 1
            cells.append(Cell(stripped, at + 1 + (text.find(stripped) if stripped else 0)))
        if end == len(line):
            return cells
        if line[end] != delimiter:
            return end + 1
        at = end + 1


# ---- XLSX


def _xlsx(data: bytes, sheet: Sheet) -> Iterator[tuple[int, list[Cell]]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl warns of styles and validations that do not concern us
            if _unpacked_octets(data) > 8 * MOST_OCTETS:
                sheet.problems.append(Problem(sheet.file, 1, 1, f"more than {8 * MOST_OCTETS} octets unpacked"))
                return
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=False)
            table = book["points"] if "points" in book.sheetnames else book.worksheets[0]
            rows = list(_xlsx_rows(table, sheet))
            book.close()
    except Exception as error:  # openpyxl and zipfile raise nearly anything for a damaged file
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        sheet.problems.append(Problem(sheet.file, 1, 1, f"cannot be read as a spreadsheet (XLSX): {what}"))
        return
    yield from rows


def _unpacked_octets(data: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        return sum(info.file_size for info in packed.infolist())


def _xlsx_rows(table: Any, sheet: Sheet) -> Iterator[tuple[int, list[Cell]]]:
    table.reset_dimensions()  # what the file says of its size is sometimes wrong
    for number, row in enumerate(table.iter_rows(max_row=MOST_ROWS + 1), 1):
        cells = []
        for column, cell in enumerate(row[:MOST_COLUMNS], 1):
            text = _xlsx_text(cell)
            if isinstance(text, str):
                cells.append(Cell(text, column))
                continue
            where = f"cell {get_column_letter(column)}{number}"
            sheet.problems.append(Problem(sheet.file, number, column, f"{where}: {text[0]}"))
            cells.append(Cell("", column))
        if cells:
            yield number, cells


def _xlsx_text(cell: Any) -> str | tuple[str]:
    """The text of a cell, or (what is wrong with it,)."""
    value = cell.value
    if value is None:
        return ""
    if cell.data_type == "f" or type(value).__name__ in ("ArrayFormula", "DataTableFormula"):
        text = value if isinstance(value, str) else getattr(value, "text", "")
        allowed = "only values are allowed (for a derived point begin the text with an apostrophe, or use CSV)"
        return (f"formula {shown(text)}; {allowed}",)
    if cell.data_type == "e":
        return (f"error value {shown(value)}; a value is needed",)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta)):
        return (f"{shown(value)} is a date or time; format the cell as text",)
    return str(value).replace("\r", " ").replace("\n", " ").strip()
