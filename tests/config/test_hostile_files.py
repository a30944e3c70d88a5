import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gatewayd.config import Config, ConfigError, load

TOML = (Path(__file__).parents[2] / "etc" / "gatewayd.toml").read_text(encoding="utf-8")
LIST = (Path(__file__).parents[2] / "etc" / "points" / "fdr12.csv").read_text(encoding="utf-8")

SCRAPS = [
    '"', "'", "[[", "]]", "{", "}", "=", "\n", '"""', "#", ",", ";", "|", "nan", "-1", "1e999", "true",
    "[[device]]\n", "= v('FDR12/CB/POS')",
]  # fmt: skip
scraps = st.text(max_size=8) | st.sampled_from(SCRAPS)
cuts = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), scraps), max_size=4)


def damaged(text: str, changes: list) -> bytes:
    for where, length, scrap in changes:
        at = int(where * len(text))
        text = text[:at] + scrap + text[at + length :]
    return text.encode(errors="replace")


VALUES = [
    "5",
    "-1",
    "0.5",
    '"x"',
    '""',
    "[]",
    "[1]",
    "{}",
    "{ a = 1 }",
    "true",
    "nan",
    "2026-11-24",
    '["é", "/"]',
    "1e400",
]
KEYS = [at for at, line in enumerate(TOML.split("\n")) if " = " in line.split("#")[0]]


def exchanged(changes: list) -> bytes:
    lines = TOML.split("\n")
    for at, value in changes:
        lines[at] = f"{lines[at].split(' = ')[0]} = {value}"
    return "\n".join(lines).encode()


def check(toml: bytes, points: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "points").mkdir()
        for part in ("bay1", "mtr3", "station"):
            (folder / "points" / f"{part}.csv").write_bytes(b"point,kind,address\n")
        (folder / "points" / "fdr12.csv").write_bytes(points)
        (folder / "gatewayd.toml").write_bytes(toml)
        try:
            config = load(folder / "gatewayd.toml")
        except ConfigError as error:
            found = error.mistakes
        else:
            assert isinstance(config, Config)
            return
        assert found
        for mistake in found:
            assert Path(mistake.file).is_relative_to(folder)
            assert mistake.line >= 1
            assert mistake.column >= 1
            assert mistake.message.isprintable()


@settings(deadline=None)
@given(cuts)
def test_a_damaged_toml_file_is_a_configuration_or_a_config_error(changes: list) -> None:
    check(damaged(TOML, changes), LIST.encode())


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(VALUES)), min_size=1, max_size=4))
def test_values_of_other_types_are_a_configuration_or_a_config_error(changes: list) -> None:
    check(exchanged(changes), LIST.encode())


@settings(deadline=None)
@given(cuts)
def test_a_damaged_point_list_is_a_configuration_or_a_config_error(changes: list) -> None:
    check(TOML.encode(), damaged(LIST, changes))
