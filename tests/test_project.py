"""What is shipped beside the code: lock, Makefile, example stations, README. The unit: tests/systemd."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

from gatewayd import __version__
from gatewayd.cli import cli
from gatewayd.config import load

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.txt", "requirements-dev.txt")
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    """The files of the project; outside a git checkout the folders that hold it."""
    names: list[Path] = []
    if shutil.which("git") and (ROOT / ".git").exists():
        found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
        names = [ROOT / name for name in found.stdout.decode().split("\0") if name]
    else:
        folders = ("gatewayd", "simulators", "tests", "docs", "etc", "systemd", "benchmarks")
        names = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in names if path.exists()]


# --- the lock -------------------------------------------------------------------------------------------------------


def locked(name: str) -> dict[str, tuple[Requirement, int]]:
    """Each package of a lock with the number of its hashes."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    found = {}
    for line in lines:
        requirement, *hashes = line.split(" --hash=")
        parsed = Requirement(requirement.strip())
        found[parsed.name.lower().replace("_", "-")] = (parsed, len(hashes))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_names_no_host_and_hashes_every_package(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash)", text, re.MULTILINE)
    packages = locked(name)
    assert len(packages) > 10
    for requirement, hashes in packages.values():
        assert hashes > 0, requirement
        assert str(requirement.specifier).startswith("=="), requirement


def test_the_lock_satisfies_what_the_project_asks_for() -> None:
    asked = PROJECT["project"]
    runtime, everything = locked(LOCKS[0]), locked(LOCKS[1])
    extras = [one for extra in asked["optional-dependencies"].values() for one in extra]
    for lock, wanted in ((runtime, asked["dependencies"]), (everything, asked["dependencies"] + extras)):
        for one in map(Requirement, wanted):
            pinned = lock[one.name.lower()][0]
            assert one.specifier.contains(str(pinned.specifier).removeprefix("=="), prereleases=True), one
    for name, (requirement, _) in runtime.items():
        assert everything[name][0] == requirement, "both locks hold the same versions"


@pytest.mark.parametrize("name", LOCKS)
def test_dnp3_is_asked_for_only_where_its_package_exists(name: str) -> None:
    assert locked(name)["yadnp3"][0].marker == Marker("platform_machine == 'x86_64'")


# --- make and CI ----------------------------------------------------------------------------------------------------


def make(*words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_make_test_runs_every_gate() -> None:
    recipe = make("test")
    for gate in ("ruff format --check", "ruff check", "bin/mypy", "lint-imports", "pytest", "--require-hashes"):
        assert gate in recipe
    assert "mosquitto" in recipe


def test_make_demo_needs_nothing_but_the_environment() -> None:
    recipe = make("demo")
    assert "gatewayd demo" in recipe
    assert "libmodbus" not in recipe


@pytest.mark.parametrize("target", ["demo", "test", "venv", "lock"])
def test_the_recipes_are_posix_shell(target: str) -> None:
    checked = subprocess.run(["sh", "-n"], input=make(target), capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "set -eu" in script.read_text()
    assert script.read_text().rstrip().endswith("make test")


# --- example stations -----------------------------------------------------------------------------------------------


STATIONS = sorted((ROOT / "etc").rglob("gatewayd.toml"))


@pytest.mark.parametrize("path", STATIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_station_in_etc_loads(path: Path) -> None:
    assert load(path).points


def test_every_point_list_in_etc_is_used() -> None:
    used = {Path(name).resolve() for path in STATIONS for name in load(path).sources}
    assert {path.resolve() for path in (ROOT / "etc").rglob("*.csv")} <= used


# --- README ---------------------------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_first_station_of_the_readme_loads(tmp_path: Path) -> None:
    (tmp_path / "gatewayd.toml").write_text(blocks("toml")[0])
    (tmp_path / "mtr1.csv").write_text(blocks("csv")[0])
    station = load(tmp_path / "gatewayd.toml")
    assert [spec.name for spec in station.points] == ["MTR1/U", "MTR1/I", "MTR1/F", "MTR1/WH"]


def test_the_command_example_of_the_readme_loads(tmp_path: Path) -> None:
    device = '[[device]]\nname = "FDR12"\nprotocol = "dnp3"\nhost = "127.0.0.1"\npoints = "p.csv"\n'
    (tmp_path / "gatewayd.toml").write_text(f'[gateway]\nname = "x"\n{device}[device.dnp3]\nremote_address = 10\n')
    (tmp_path / "p.csv").write_text(blocks("csv")[1])
    station = load(tmp_path / "gatewayd.toml")
    assert any(spec.command for spec in station.points)


def test_every_command_and_option_in_the_readme_exists() -> None:
    words = re.findall(r"`gatewayd (\w+)[^`]*`", README)
    assert set(words) == set(cli.commands)
    rows = [line for line in README.splitlines() if line.startswith("| `gatewayd ")]
    assert len(rows) == len(cli.commands)
    for line in [*rows, *blocks("sh")[1].splitlines()]:
        for command in re.findall(r"gatewayd (\w+)", line)[:1]:
            known = {option for param in cli.commands[command].params for option in param.opts}
            assert set(re.findall(r"(?<![\w-])--[a-z-]+", line)) <= known, line


def test_every_column_of_the_point_lists_is_in_the_readme() -> None:
    table = README.split("## Point-list columns")[1].split("\n## ")[0]
    used = {name for path in (ROOT / "etc").rglob("*.csv") for name in header(path)}
    assert used <= set(re.findall(r"`([a-z_]+)`", table))


def header(path: Path) -> list[str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return next(csv.reader(io.StringIO(lines[0].replace(";", ","))))


def test_links_in_the_documentation_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "systemd").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


# --- the whole ------------------------------------------------------------------------------------------------------


def test_nothing_names_a_machine_of_ours() -> None:
    forbidden = re.compile("|".join(["/wo" + "rk/", "/ro" + "ot/", r"/\.lib" + "rary", r"\.\./sha" + "red"]))
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found = forbidden.search(text)
        assert found is None, f"{path}: {found}"


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_explains_itself_and_its_exit_status(name: str) -> None:
    command = cli.commands[name]
    text = command.get_help(click.Context(command, info_name=f"gatewayd {name}"))
    assert "Exit status" in text
    for param in command.params:
        assert isinstance(param, click.Argument) or getattr(param, "help", None), param.name
