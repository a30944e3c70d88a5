import tomllib

from hypothesis import given
from hypothesis import strategies as st

from gatewayd.toml_locate import locate

TEXT = '''# comment with [brackets] and = signs
title = "a # no comment, [no] {table}"   # but this is
  indented.key = 1
"quoted.key" = [1, [2,
  3], { a = "]", b = """x]
y""" }]

[table]   # comment
'lit' = \'\'\'multi
[no.header]
\'\'\'
dates = 2026-11-24T01:02:03Z

[[device]]
name = "A"
[device.dnp3]
port = 1
[[device]]
name = "B"
serial = { port = "/dev/ttyS1", baud = 9600 }
tls.ca_file = "x"
[device."iec 61850"]
reports = [
  "one",   # comment, with comma
  "two",
]
'''


def test_every_value_and_key_is_found_where_it_stands() -> None:
    places = locate(TEXT)
    assert places.value(("title",)) == (2, 9)
    assert places.key(("title",)) == (2, 1)
    assert places.value(("indented", "key")) == (3, 18)
    assert places.key(("indented", "key")) == (3, 3)
    assert places.value(("quoted.key", 1, 1)) == (5, 3)
    assert places.value(("quoted.key", 2, "b")) == (5, 22)
    assert places.value(("table",)) == (8, 1)
    assert places.value(("table", "dates")) == (12, 9)
    assert places.value(("device", 0, "dnp3", "port")) == (17, 8)
    assert places.value(("device", 1, "name")) == (19, 8)
    assert places.value(("device", 1, "serial", "baud")) == (20, 40)
    assert places.key(("device", 1, "serial", "baud")) == (20, 33)
    assert places.value(("device", 1, "tls", "ca_file")) == (21, 15)
    assert places.value(("device", 1, "iec 61850", "reports", 1)) == (25, 3)


def test_what_is_not_there_is_at_its_nearest_parent() -> None:
    places = locate(TEXT)
    assert places.value(("device", 1, "serial", "parity")) == (20, 10)
    assert places.value(("device", 1, "port")) == (18, 1)
    assert places.value(("nothing", "at", "all")) == (1, 1)


def test_line_ends_of_windows_count_as_tomllib_counts_them() -> None:
    assert locate('a = 1\r\nb = """x\r\ny"""\r\nc = 2\r\n').value(("c",)) == (4, 5)


keys = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=6)
scalars = st.integers() | st.booleans() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)


def quoted(text: str) -> str:
    return '"' + "".join(c if c.isalnum() or c in "[]{}=#, '" else f"\\U{ord(c):08x}" for c in text) + '"'


def written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(written(inner) for inner in value) + " # ]\n]"
    return quoted(value) if isinstance(value, str) else str(value)


def leaves(value: object, path: tuple) -> list[tuple[tuple, object]]:
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for at, inner in enumerate(value) for leaf in leaves(inner, (*path, at))]
    return [(path, value)]


@given(st.dictionaries(keys, st.dictionaries(keys, values, max_size=3), max_size=3))
def test_each_scalar_of_any_document_is_read_back_from_its_place(document: dict) -> None:
    text = "".join(
        f"[{quoted(table)}] # x = 1\n" + "".join(f"{quoted(key)} = {written(value)}\n" for key, value in pairs.items())
        for table, pairs in document.items()
    )
    assert tomllib.loads(text) == document
    lines = text.split("\n")
    places = locate(text)
    for path, value in leaves(document, ()):
        line, column = places.value(path)
        assert lines[line - 1][column - 1 :].startswith(written(value))
