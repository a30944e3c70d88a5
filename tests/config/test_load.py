import time
from pathlib import Path

import openpyxl
import pytest

from gatewayd.config import Config, ConfigError, load
from gatewayd.engineering import report
from gatewayd.points.types import ControlMode, Kind

STATION = """
[gateway]
name = "riverside"
state_dir = "state"

[mqtt]
username = "gw"
password_file = "mqtt-password"

[journal]
keep = "36h"
max_size = "1.5GiB"

[station]
points = "station.csv"

[[device]]
name = "FDR12"
protocol = "dnp3"
host = "10.1.1.12"
points = "fdr12.csv"
retain_points = false
[device.dnp3]
remote_address = 10

[[device]]
name = "BAY1"
protocol = "iec61850"
host = "::1"
enabled = false
points = "bay1.csv"
"""
FDR12 = """point,kind,address,control,command,feedback,interlock
FDR12/CB/POS,double,BI:3|BI:4,sbo,CROB:2 trip-close,FDR12/CB/POS,closed('BAY1/CB/POS')
FDR12/DS/POS,double,BI:5|BI:6,,,,
FDR12/P,analog,AI:0,,,,
"""
BAY1 = """point,kind,address,control,command,feedback,local
BAY1/CB/POS,double,BAY1LD0/CSWI1.Pos,sbo,BAY1LD0/CSWI1.Pos,,on('BAY1/LOCAL')
BAY1/LOCAL,binary,BAY1LD0/LLN0.Loc,,,,
BAY1/P2,analog,= v('FDR12/P') * 2,,,,
"""
DERIVED = """point,kind,address
SUM,analog,= v('BAY1/P2') + v('FDR12/P')
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"gatewayd.toml": STATION, "fdr12.csv": FDR12, "bay1.csv": BAY1, "station.csv": DERIVED}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def mistakes(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == "\n".join(str(mistake) for mistake in caught.value.mistakes)
    return [str(mistake).removeprefix(f"{path.parent}/") for mistake in caught.value.mistakes]


def test_rows_are_indexes_over_all_devices(folder: Path) -> None:
    config = load(folder / "gatewayd.toml")
    assert [point.row for point in config.points] == list(range(len(config.points)))
    assert [point.name for point in config.points] == [
        "FDR12/CB/POS", "FDR12/DS/POS", "FDR12/P", "FDR12/CB/POS#open", "FDR12/CB/POS#closed", "FDR12/DS/POS#open",
        "FDR12/DS/POS#closed", "BAY1/CB/POS", "BAY1/LOCAL", "BAY1/P2", "SUM",
    ]  # fmt: skip
    assert {point.name: point.device for point in config.points}["SUM"] == "station"
    assert config.pairs == ((0, 3, 4, 100), (1, 5, 6, 100))


def test_a_driver_gets_what_it_reads_and_what_it_commands(folder: Path) -> None:
    config = load(folder / "gatewayd.toml")
    feeder, bay = config.devices
    assert [(point.name, point.address, point.command) for point in feeder.points] == [
        ("FDR12/CB/POS", "", "CROB:2 trip-close"),
        ("FDR12/P", "AI:0", ""),
        ("FDR12/CB/POS#open", "BI:3", ""),
        ("FDR12/CB/POS#closed", "BI:4", ""),
        ("FDR12/DS/POS#open", "BI:5", ""),
        ("FDR12/DS/POS#closed", "BI:6", ""),
    ]
    assert [point.name for point in bay.points] == ["BAY1/CB/POS", "BAY1/LOCAL"]
    assert (feeder.port, bay.port) == (20000, 102)


def test_a_controllable_object_is_its_own_feedback_everywhere(folder: Path) -> None:
    config = load(folder / "gatewayd.toml")
    assert config.points[7].feedback == "BAY1/CB/POS"
    assert config.devices[1].points[0].feedback == "BAY1/CB/POS"


def test_a_select_lives_as_long_as_the_row_says_or_else_the_control_table(folder: Path) -> None:
    (folder / "gatewayd.toml").write_text(STATION + "[control]\nselect_timeout_s = 45\n")
    (folder / "fdr12.csv").write_text(
        "point,kind,address,control,command,feedback,select_timeout_s\n"
        "A,binary,BI:0,sbo,CROB:0 latch,A,7\nB,binary,BI:1,sbo,CROB:1 latch,B,\nFDR12/P,analog,AI:0,,,,\n"
    )
    config = load(folder / "gatewayd.toml")
    assert [point.select_timeout_s for point in config.points[:2]] == [7.0, 45.0]
    assert [point.select_timeout_s for point in config.devices[0].points[:2]] == [7.0, 45.0]


def test_derived_points_come_in_the_order_of_evaluation(folder: Path) -> None:
    config = load(folder / "gatewayd.toml")
    assert [config.points[derived.row].name for derived in config.derived] == ["BAY1/P2", "SUM"]
    assert config.derived[1].expression.names == ("BAY1/P2", "FDR12/P")
    assert config.interlocks[0].names == ("BAY1/CB/POS",)
    assert config.locals[7].names == ("BAY1/LOCAL",)


def test_tables_have_units_paths_and_defaults(folder: Path) -> None:
    config = load(folder / "gatewayd.toml")
    assert config.gateway.state_dir == folder / "state"
    assert (config.journal.keep_s, config.journal.max_size, config.journal.when_full) == (129600, 1610612736, "block")
    assert (config.mqtt.client_id, config.mqtt.base) == ("gw-riverside", "gw/riverside")
    assert config.mqtt.password_file == "mqtt-password"
    assert config.disabled == {"BAY1"}
    assert config.unretained == {"FDR12"}
    assert [Path(source).name for source in config.sources] == ["gatewayd.toml", "fdr12.csv", "bay1.csv", "station.csv"]


def test_a_path_with_a_slash_is_relative_to_the_configuration(folder: Path) -> None:
    (folder / "pw").mkdir()
    (folder / "pw" / "mqtt").write_text("x")
    (folder / "pw" / "mqtt").chmod(0o640)
    path = folder / "gatewayd.toml"
    path.write_text(STATION.replace('"mqtt-password"', '"pw/mqtt"'))
    assert load(path).mqtt.password_file == str(folder / "pw" / "mqtt")
    path.write_text(STATION.replace('"mqtt-password"', '"pw/other"'))
    assert mistakes(path)[0].startswith('gatewayd.toml:8:17: password_file: found "pw/other", which is no file;')


def test_the_hash_is_of_the_contents(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = load(folder / "gatewayd.toml").sha256
    other = tmp_path_factory.mktemp("copy")
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    assert load(other / "gatewayd.toml").sha256 == first
    (other / "station.csv").write_text(DERIVED + "# changed\n")
    assert load(other / "gatewayd.toml").sha256 != first


def test_mistakes_of_all_files_come_together_in_the_order_of_files_and_lines(folder: Path) -> None:
    (folder / "fdr12.csv").write_text(FDR12.replace("analog", "analogue").replace("BAY1/CB/POS", "BAY1/CB"))
    (folder / "bay1.csv").write_text(BAY1.replace("FDR12/P", "FDR12/Q"))
    (folder / "gatewayd.toml").write_text(STATION + "nonsense = 1\n")
    found = mistakes(folder / "gatewayd.toml")
    assert [line.split(": ")[0] for line in found] == [
        "gatewayd.toml:32:1", "fdr12.csv:2:73", "fdr12.csv:4:9", "bay1.csv:4:20",
    ]  # fmt: skip


def test_a_spreadsheet_gives_the_same_points_as_a_csv(folder: Path) -> None:
    book = openpyxl.Workbook()
    for line in FDR12.splitlines():
        book.active.append([cell or None for cell in line.split(",")])
    book.save(folder / "fdr12.xlsx")
    before = load(folder / "gatewayd.toml").points
    (folder / "gatewayd.toml").write_text(STATION.replace("fdr12.csv", "fdr12.xlsx"))
    after = load(folder / "gatewayd.toml").points
    assert [(p.name, p.address, p.command, p.interlock) for p in before] == [
        (p.name, p.address, p.command, p.interlock) for p in after
    ]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", 'the key "gateway" is missing; a table is needed'),
        (b"\xff\xfe", "is not UTF-8"),
        (b"[gateway", "not valid TOML"),
        (b"gateway = 5", "gateway: found 5; a table is allowed"),
        (b"a = " + b"[" * 5000, "not valid TOML"),
        (b"[gateway]\nname = 'x'\ndevice = 1\n", 'unknown key "device"'),
        (b"device = [1]\n[gateway]\nname = 'x'\n", "device: found 1; a table is allowed"),
        (b"[gateway]\nname = 'x'\n", "no [[device]] found; at least one is needed"),
    ],
)
def test_any_file_is_a_configuration_or_a_config_error(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "gatewayd.toml"
    path.write_bytes(data)
    assert any(says in line for line in mistakes(path))


def test_a_configuration_that_is_not_there_says_so(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "no.toml") == ["no.toml:1:1: cannot be read: No such file or directory"]
    (tmp_path / "folder.toml").mkdir()
    assert mistakes(tmp_path / "folder.toml") == ["folder.toml:1:1: cannot be read: Is a directory"]


def test_ten_thousand_points_are_loaded_and_each_is_there(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = ["point,kind,address,unit,scale,deadband,control,command,feedback,interlock,description"]
    for at in range(10_000):
        name = f"FDR/P{at}"
        if at % 10:
            rows.append(f"{name},analog,AI:{at},kW,0.1,1%,,,,,Measured value")
        else:
            rows.append(f"{name},binary,BI:{at},,,,sbo,CROB:{at} latch,{name},on('FDR/P0') and good('{name}'),Switch")
    (tmp_path / "big.csv").write_text("\n".join(rows))
    path = tmp_path / "gatewayd.toml"
    path.write_text('[gateway]\nname="g"\n[[device]]\nname="FDR"\nprotocol="dnp3"\nhost="h"\npoints="big.csv"\n')
    begin = time.perf_counter()
    config = load(path)
    with capsys.disabled():
        print(f"\n10,000 points loaded in {time.perf_counter() - begin:.2f} s")
    assert len(config.points) == 10_000
    assert len(config.interlocks) == 1_000
    assert sum(point.kind is Kind.ANALOG for point in config.points) == 9_000


# ---- what check and points print


@pytest.fixture
def config(folder: Path) -> Config:
    return load(folder / "gatewayd.toml")


def test_the_summary_counts_what_people_know(config: Config) -> None:
    data = report.summary(config)
    assert (data["points"], data["controls"], data["derived"], data["ok"]) == (7, 2, 2, True)
    assert [device["address"] for device in data["devices"]] == ["10.1.1.12:20000", "[::1]:102"]
    assert [device["enabled"] for device in data["devices"]] == [True, False]
    assert "BAY1     iec61850  [::1]:102: 3 points" in report.summary_text(config)


def test_the_table_shows_each_point_once_with_its_contacts(config: Config) -> None:
    table = report.points_table(config)
    assert [row["point"] for row in table] == [
        "FDR12/CB/POS", "FDR12/DS/POS", "FDR12/P", "BAY1/CB/POS", "BAY1/LOCAL", "BAY1/P2", "SUM",
    ]  # fmt: skip
    assert table[0]["contacts"] == ["BI:3", "BI:4"]
    assert table[0]["control"] == ControlMode.SBO.value
    assert "row" in table[0]
    text = report.points_text(config)
    assert "FDR12/DS/POS" in text
    assert "#open" not in text


def test_the_json_form_has_points_and_plans_of_every_device(config: Config) -> None:
    data = report.points_json(config)
    assert set(data["plans"]) == {"FDR12", "BAY1"}
    assert all(lines for lines in data["plans"].values())


def test_mistakes_have_a_json_form_too(folder: Path) -> None:
    (folder / "station.csv").unlink()
    with pytest.raises(ConfigError) as caught:
        load(folder / "gatewayd.toml")
    data = report.mistakes(caught.value)
    assert data["ok"] is False
    assert data["mistakes"][0]["line"] == 15
    assert data["mistakes"][0]["column"] == 10


def test_the_shipped_examples_pass_the_check() -> None:
    etc = Path(__file__).parents[2] / "etc"
    examples = sorted(etc.rglob("gatewayd.toml"))
    assert examples
    used = set()
    for example in examples:
        used |= {Path(source).resolve() for source in load(example).sources}
    assert {path.resolve() for path in etc.rglob("*.csv")} <= used
