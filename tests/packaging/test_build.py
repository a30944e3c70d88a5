"""What the build makes: files, modes, metadata, and that the unpacked program runs."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import os
import platform
import re
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from release import source, wheels
from release.errors import BuildError

from gatewayd import __version__
from gatewayd.cli import cli
from tests.packaging.support import LONG, ROOT, built, built_elsewhere, copy_of_source, epoch, unpacked

long_form = pytest.mark.skipif(not LONG, reason="takes long: make package")


def fields() -> dict[str, str]:
    """The control file."""
    shown = subprocess.run(["dpkg-deb", "--field", built().deb], capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^(\S+): (.*)$", shown, re.MULTILINE))


# --- the same bytes -------------------------------------------------------------------------------------------------


@long_form
def test_two_builds_give_the_same_bytes() -> None:
    first, second = built().folder, built_elsewhere().folder
    signature = {"SHA256SUMS.sig"}  # the builder's, not the build's
    names = {path.name for path in first.iterdir()} - signature
    assert names == {path.name for path in second.iterdir()}
    assert len(names) == 6
    assert [name for name in sorted(names) if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_the_wheel_comes_out_of_the_sdist_with_the_same_bytes(tmp_path: Path) -> None:
    with tarfile.open(built().sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    again = tmp_path / "again"
    again.mkdir()
    wheel = source.build_wheel(folder, again, int(epoch()))
    assert wheel.read_bytes() == built().wheel.read_bytes()


def test_the_sdist_is_all_of_the_source() -> None:
    with tarfile.open(built().sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        info = archive.extractfile(f"gatewayd-{__version__}/PKG-INFO")
        assert info is not None
        assert b"\nLicense-Expression: GPL-3.0-or-later\n" in info.read()
    assert names == {str(name) for name in source.files(ROOT)} | {"PKG-INFO"}
    for needed in ("Makefile", "requirements.txt", "packaging/release/deb.py", "simulators/station.py", "LICENSE"):
        assert needed in names


def test_outside_of_git_the_same_files_are_the_source(tmp_path: Path) -> None:
    copy = copy_of_source(tmp_path / "copy")
    for product in (".venv/x", "build/x", "dist/x", "gatewayd/__pycache__/x.pyc", ".pytest_cache/x", "g.egg-info/x"):
        (copy / product).parent.mkdir(parents=True, exist_ok=True)
        (copy / product).touch()
    assert source.files(copy) == source.files(ROOT)


# --- the Debian package ---------------------------------------------------------------------------------------------


def test_the_package_says_what_it_is_and_needs() -> None:
    control = fields()
    assert control["Package"] == "gatewayd"
    assert control["Version"] == __version__
    needs = control["Depends"].split(", ")
    python = wheels.target(Path("/usr/bin/python3")).version
    minor = int(python.split(".")[1])
    assert needs[:3] == [f"python3 (>= {python})", f"python3 (<< 3.{minor + 1})", "systemd"]
    assert any(need.startswith("libc6 (>= 2.") for need in needs)
    # Recommends would be fetched by apt, and an offline installation would fail.
    assert "Recommends" not in control
    assert "Pre-Depends" not in control


def test_everything_in_etc_is_a_conffile_and_nothing_else() -> None:
    shown = subprocess.run(["dpkg-deb", "--info", built().deb, "conffiles"], capture_output=True, text=True, check=True)
    inside = {f"/{path.relative_to(unpacked())}" for path in (unpacked() / "etc").rglob("*") if path.is_file()}
    assert set(shown.stdout.split()) == inside
    assert "/etc/gatewayd/gatewayd.toml" in inside
    assert all(name.startswith("/etc/gatewayd/") for name in inside)


def test_owners_modes_and_times_are_the_same_everywhere() -> None:
    listing = subprocess.run(["dpkg-deb", "--fsys-tarfile", built().deb], capture_output=True, check=True)
    names = []
    with tarfile.open(fileobj=io.BytesIO(listing.stdout)) as archive:
        for entry in archive:
            names.append(entry.name)
            assert (entry.uid, entry.gid) == (0, 0), entry.name
            assert entry.mtime <= int(epoch()), entry.name
            if entry.isdir() or "/gatewayd/bin/" in entry.name:
                assert entry.mode in (0o755, 0o777), entry.name
            elif entry.isfile():
                assert entry.mode == 0o644, entry.name
    assert not [name for name in names if name.endswith(".pyc")]


def test_nothing_of_the_building_machine_is_in_the_package() -> None:
    """No path of the checkout, of the interpreter that built, or of a scratch folder."""
    paths = [str(ROOT), sys.prefix, sys.base_prefix, "gatewayd-release-"]
    ours = re.compile("|".join(re.escape(path) for path in paths if path not in ("/usr", "/usr/local")).encode())
    for path in unpacked().rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert ours.search(path.read_bytes()) is None, path


def test_what_the_wheels_brought_is_unchanged() -> None:
    """Every file in a RECORD has the hash that it has there; every file of the packages is in a RECORD."""
    (packages,) = (unpacked() / "usr/lib/gatewayd/lib").glob("python3.*/site-packages")
    recorded = set()
    for record in packages.glob("*.dist-info/RECORD"):
        for name, digest, _ in csv.reader(record.read_text().splitlines()):
            recorded.add(name)
            if digest:
                kind, value = digest.split("=")
                assert kind == "sha256"
                found = base64.urlsafe_b64encode(hashlib.sha256((packages / name).read_bytes()).digest())
                assert found.decode().rstrip("=") == value, name
    files = {str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file()}
    assert files == recorded


def test_the_units_lie_where_systemd_looks() -> None:
    root = unpacked()
    for name, place in {
        "gatewayd.service": "systemd/system/gatewayd.service",
        "sysusers.d/gatewayd.conf": "sysusers.d/gatewayd.conf",
        "tmpfiles.d/gatewayd.conf": "tmpfiles.d/gatewayd.conf",
    }.items():
        assert (root / "usr/lib" / place).read_bytes() == (ROOT / "systemd" / name).read_bytes()
    for name in ("site.conf", "serial.conf", "70-gatewayd-serial.rules", "demo/gatewayd.toml"):
        assert (root / "usr/share/gatewayd" / name).is_file()


def test_links_in_the_installed_documentation_lead_somewhere() -> None:
    documents = unpacked() / "usr/share/doc/gatewayd"
    pages = list(documents.rglob("*.md"))
    assert documents / "docs/operations.md" in pages
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(documents)}: {target}"


def test_the_manual_page_names_every_command() -> None:
    page = gzip.decompress((unpacked() / "usr/share/man/man8/gatewayd.8.gz").read_bytes()).decode()
    for name in cli.commands:
        assert f".SS gatewayd {name}\n" in page
    assert f'"gatewayd {__version__}"' in page


# --- the program ----------------------------------------------------------------------------------------------------


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The unpacked program, as nobody where we are root, with nothing of this environment."""
    python = unpacked() / "usr/lib/gatewayd/bin/python3"
    identity = {"user": 65534, "group": 65534, "extra_groups": ()} if os.geteuid() == 0 else {}
    command = [python, "-P", "-m", "gatewayd", *words]
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command, cwd="/", env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False, **identity
    )


def test_the_unpacked_program_runs_from_any_folder_and_the_example_passes() -> None:
    shown = run("--version")
    assert shown.stdout == f"gatewayd, version {__version__}\n", shown.stderr
    for config in ("etc/gatewayd/gatewayd.toml", "usr/share/gatewayd/demo/gatewayd.toml"):
        checked = run("check", "-c", unpacked() / config)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_module_of_the_program_finds_what_it_imports() -> None:
    """With the packages of the runtime lock and nothing else: what only the tests' environment has is missing here."""
    python = unpacked() / "usr/lib/gatewayd/bin/python3"
    code = (
        "import importlib, pkgutil, gatewayd\n"
        "for found in pkgutil.walk_packages(gatewayd.__path__, 'gatewayd.'):\n"
        "    if not found.name.endswith('__main__'):\n"
        "        try:\n"
        "            importlib.import_module(found.name)\n"
        "        except ImportError as error:\n"
        "            print(f'{found.name}: {error}')\n"
    )
    # DNP3's package exists for x86_64 only; there the driver says so itself.
    shown = subprocess.run([python, "-P", "-c", code], env={}, cwd="/", capture_output=True, text=True, check=True)
    lines = [line for line in shown.stdout.splitlines() if platform.machine() == "x86_64" or "opendnp3" not in line]
    assert lines == []


def test_the_unpacked_program_imports_nothing_but_its_own() -> None:
    python = unpacked() / "usr/lib/gatewayd/bin/python3"
    dnp3 = "opendnp3, " if platform.machine() == "x86_64" else ""  # where its wheel exists
    code = (
        f"import gatewayd.cli, aiomqtt, pymodbus, msgspec, {dnp3}sys; "
        "print(*{m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)}, sep='\\n')"
    )
    shown = subprocess.run([python, "-P", "-c", code], env={}, cwd="/", capture_output=True, text=True, check=True)
    version = wheels.target(Path("/usr/bin/python3")).version
    allowed = (str(unpacked()), f"/usr/lib/python{version}/", "/usr/lib/python3/dist-packages/_distutils_hack")
    strangers = [line for line in shown.stdout.split("\n") if line and not line.startswith(allowed)]
    assert strangers == []


def test_the_command_is_a_link_to_a_script_of_the_private_environment() -> None:
    link = unpacked() / "usr/bin/gatewayd"
    assert link.readlink() == Path("../lib/gatewayd/bin/gatewayd")
    script = link.resolve()
    assert script.read_text().startswith("#!/usr/lib/gatewayd/bin/python3 -P\n")
    assert script.stat().st_mode & stat.S_IXOTH


# --- what a builder can do wrong ------------------------------------------------------------------------------------


def test_a_python_that_is_not_the_systems_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="allowed is the system's own in /usr"):
        wheels.target(Path(sys.executable))  # the environment of the tests
    with pytest.raises(BuildError, match="cannot be run"):
        wheels.target(tmp_path / "python3")


def test_a_wheel_with_another_hash_than_the_locks_is_refused(tmp_path: Path) -> None:
    name = "et_xmlfile-2.0.0-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("et_xmlfile.py", "evil = True\n")
    lock = tmp_path / "requirements.txt"
    lock.write_text(f"et-xmlfile==2.0.0 --hash=sha256:{'0' * 64}\n")
    out = tmp_path / "out"
    out.mkdir()
    target = wheels.target(Path("/usr/bin/python3"))
    with pytest.raises(BuildError, match=r"(?i)hash"):
        wheels.install(target, lock, [tmp_path / name], tmp_path / name, out)


def test_the_version_and_the_time_of_the_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert source.version(ROOT) == __version__
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    assert source.epoch(ROOT) == 1234567890
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(BuildError, match="'yesterday'; whole seconds"):
        source.epoch(ROOT)
    (tmp_path / "gatewayd").mkdir()
    (tmp_path / "gatewayd/__init__.py").write_text("__version__ = '1'\n")
    with pytest.raises(BuildError, match="no line"):
        source.version(tmp_path)


# --- make -----------------------------------------------------------------------------------------------------------


def recipe(*words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_make_package_builds_signs_and_proves() -> None:
    plain, signed = recipe("package"), recipe("package", "SIGN_KEY=/some/key.pem")
    assert "-m release --out dist" in plain
    assert "--sign-key" not in plain
    assert "--sign-key '/some/key.pem'" in signed
    proof = recipe("package-proof")
    for needed in ("GATEWAYD_LONG=1", "GATEWAYD_PACKAGES=dist", "mmdebstrap", "lintian", "dpkg-dev"):
        assert needed in proof, needed
    assert ("GATEWAYD_LONG=1" in plain) == (os.geteuid() == 0)
    assert "GATEWAYD_LONG" not in recipe("package", "PROVE=no")
    for text in (plain, proof):
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_make_test_installs_what_the_short_form_needs_and_no_more() -> None:
    installed = recipe("test")
    assert "dpkg-dev" in installed
    assert "mmdebstrap" not in installed
