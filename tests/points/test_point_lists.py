import io
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewayd.points.pointlist import PointList, read_points
from gatewayd.points.types import ControlMode, Kind, LockScope


def csv(text: str | bytes, device: str = "FDR12") -> PointList:
    data = text if isinstance(text, bytes) else text.encode()
    return read_points(Path("points.csv"), device=device, data=data)


def xlsx(rows: list[list[object]], sheet: str = "points", device: str = "FDR12") -> PointList:
    book = openpyxl.Workbook()
    page = book.active
    page.title = "cover"
    page.append(["not the list"])
    page = book.create_sheet(sheet)
    if sheet != "points":
        book.move_sheet(sheet, -1)
    for row in rows:
        page.append(row)
    octets = io.BytesIO()
    book.save(octets)
    return read_points(Path("points.xlsx"), device=device, data=octets.getvalue())


def told(points: PointList) -> list[str]:
    return [str(problem) for problem in points.problems]


def test_all_columns_become_a_point() -> None:
    points = csv(
        "point,kind,address,unit,scale,offset,deadband,event,control,command,feedback,feedback_timeout_s,tolerance,"
        "min,max,select_timeout_s,bay,local,lock_scope,check,guard,readback,interlock,area,description\n"
        "A/B,analog,AI:1,kV,0.1,-4,2%,yes,SBO,AO:1 f32,A/B,7.5,0.2,1,9,20,B1,on('X'),bay,interlock synchro,"
        "HR:1=2,yes,closed('Y'),north,text\n"
    )
    assert told(points) == []
    spec = points.drafts[0].spec
    assert (spec.name, spec.kind, spec.address, spec.unit) == ("A/B", Kind.ANALOG, "AI:1", "kV")
    assert (spec.scale, spec.offset, spec.deadband, spec.deadband_percent) == (0.1, -4.0, 0.0, 2.0)
    assert (spec.event, spec.control, spec.command, spec.feedback) == (True, ControlMode.SBO, "AO:1 f32", "A/B")
    assert (spec.feedback_timeout_s, spec.tolerance, spec.min, spec.max) == (7.5, 0.2, 1.0, 9.0)
    assert (spec.select_timeout_s, spec.bay, spec.local, spec.lock_scope) == (20.0, "B1", "on('X')", LockScope.BAY)
    assert (spec.check, spec.guard, spec.readback) == (("interlock", "synchro"), "HR:1=2", True)
    assert (spec.interlock, spec.area, spec.description) == ("closed('Y')", "north", "text")
    assert (spec.device, spec.file, spec.line, spec.row) == ("FDR12", "points.csv", 2, 0)


@pytest.mark.parametrize(
    ("kind", "event"),
    [("binary", True), ("double", True), ("enum", True), ("string", True), ("analog", False), ("counter", False)],
)
def test_what_is_an_event_by_default_follows_the_kind(kind: str, event: bool) -> None:
    assert csv(f"point,kind,address\nA,{kind},X:1\n").drafts[0].spec.event is event


def test_a_double_has_the_four_states_and_names_only_what_it_changes() -> None:
    points = csv("point,kind,address,states\nA,double,DBI:0,\nB,double,DBI:1,1=aus;2=ein\n")
    assert points.drafts[0].spec.states == {0: "intermediate", 1: "open", 2: "closed", 3: "bad"}
    assert points.drafts[1].spec.states == {0: "intermediate", 1: "aus", 2: "ein", 3: "bad"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_any_spreadsheets_csv_is_understood(delimiter: str, ends: str, mark: bytes) -> None:
    rows = [
        ["# a list", ""],
        ["Point", "KIND", "address", "description"],
        ["", "", "", ""],
        ["A/B", "binary", "BI:1", "Kühler"],
    ]
    text = ends.join(delimiter.join(row) for row in rows) + ends
    points = csv(mark + text.encode())
    assert told(points) == []
    assert [(draft.spec.name, draft.spec.description, draft.spec.line) for draft in points.drafts] == [
        ("A/B", "Kühler", 4)
    ]


def test_excels_line_that_says_the_delimiter_is_understood() -> None:
    points = csv("sep=;\npoint;kind;address\nA;binary;BI:1\n")
    assert [draft.spec.line for draft in points.drafts] == [3]
    assert told(points) == []


def test_quoted_cells_may_hold_delimiter_and_quotes_and_mistakes_in_them_have_their_column() -> None:
    points = csv('point,kind,address,description,event\nA,binary, "BI:1" ,"a ""b"", c",maybe\n')
    assert points.drafts[0].spec.description == 'a "b", c'
    assert points.drafts[0].spec.address == "BI:1"
    assert told(points) == ['points.csv:2:32: event: found "maybe"; yes or no is allowed']


def test_two_contacts_become_two_hidden_rows_after_the_points_and_a_pair() -> None:
    points = csv("point,kind,address,event,settle_ms\nA,double, BI:3 | BI:4 ,no,250\nB,binary,BI:5,,\n")
    assert told(points) == []
    specs = [draft.spec for draft in points.drafts]
    assert [(spec.row, spec.name, spec.kind, spec.address, spec.contact, spec.event) for spec in specs] == [
        (0, "A", "double", "BI:3 | BI:4", False, False),
        (1, "B", "binary", "BI:5", False, True),
        (2, "A#open", "binary", "BI:3", True, False),
        (3, "A#closed", "binary", "BI:4", True, False),
    ]
    assert points.pairs == [(0, 2, 3, 250)]


def test_rows_are_numbered_from_the_first_row_given() -> None:
    points = read_points(
        Path("p.csv"), first_row=70, device="D", data=b"point,kind,address\nA,double,BI:1|BI:2\nB,binary,BI:3\n"
    )
    assert [draft.spec.row for draft in points.drafts] == [70, 71, 72, 73]
    assert points.pairs == [(70, 72, 73, 100)]


def test_a_list_without_needed_columns_says_it_once() -> None:
    assert told(csv("point,type,addr\nA,binary,BI:1\n"))[-1] == (
        "points.csv:1:1: column kind or address is missing; needed are point, kind, address"
    )


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_an_empty_list_is_a_mistake(text: str) -> None:
    assert told(csv(text)) == ["points.csv:1:1: no header row; the first row must name the columns"]


def test_utf16_is_named() -> None:
    assert "UTF-16 is not UTF-8" in told(csv("point,kind,address\n".encode("utf-16")))[0]


def test_a_spreadsheet_is_read_like_a_csv_with_numbers_and_truths_as_text() -> None:
    points = xlsx(
        [
            ["# comment"],
            ["point", "kind", "address", "scale", "event", "description"],
            [None, None, None],
            ["A", "analog", 40101, 0.5, True, "line\nbreak"],
            ["B", "analog", "AI:1", 2.0, False, 7],
        ]
    )
    assert told(points) == []
    first, second = (draft.spec for draft in points.drafts)
    assert (first.address, first.scale, first.event, first.description, first.line) == (
        "40101",
        0.5,
        True,
        "line break",
        4,
    )
    assert (second.scale, second.event, second.description) == (2.0, False, "7")


def test_without_a_sheet_named_points_the_first_is_read() -> None:
    points = xlsx([["point", "kind", "address"], ["A", "binary", "BI:1"]], sheet="signals")
    assert [draft.spec.name for draft in points.drafts] == ["A"]


def test_formulas_dates_and_errors_of_a_spreadsheet_are_mistakes_that_name_the_cell() -> None:
    import datetime

    points = xlsx(
        [
            ["point", "kind", "address", "scale", "description"],
            ["A", "analog", "AI:1", "=1/10", datetime.date(2026, 1, 1)],
            ["B", "analogue", "=A2", 1, "#REF!"],
        ]
    )
    messages = told(points)
    assert any(m.startswith('points.xlsx:2:4: cell D2: formula "=1/10"; only values are allowed') for m in messages)
    assert any(m.startswith("points.xlsx:2:5: cell E2:") and "is a date or time" in m for m in messages)
    assert any(m.startswith('points.xlsx:3:3: cell C3: formula "=A2"') for m in messages)
    assert any(m.startswith('points.xlsx:3:5: cell E3: error value "#REF!"') for m in messages)
    assert any(m.startswith('points.xlsx:3:2: kind: found "analogue"') for m in messages)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 not really", b"point,kind,address\n"])
def test_what_is_no_spreadsheet_is_said_to_be_none(data: bytes) -> None:
    points = read_points(Path("points.xlsx"), device="D", data=data)
    assert "points.xlsx:1:1: cannot be read as a spreadsheet (XLSX)" in told(points)[0]


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_octets_are_a_list_or_mistakes_never_an_exception(text: str | bytes) -> None:
    data = (
        text
        if isinstance(text, bytes)
        else ("point,kind,address,scale,states,deadband\n" + text).encode(errors="replace")
    )
    points = csv(data)
    assert all(problem.line >= 1 and problem.column >= 1 and problem.message for problem in points.problems)
    assert [draft.spec.row for draft in points.drafts] == list(range(len(points.drafts)))
