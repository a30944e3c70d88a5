"""One build for all tests of a run, and the same once more under other circumstances."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
CACHE = ROOT / "build" / "wheels"
LONG = bool(os.environ.get("GATEWAYD_LONG"))
"""Also what takes minutes: `make package` sets it."""

sys.path.append(str(PACKAGING))  # the build's own modules can be imported by tests


class Build(NamedTuple):
    """The folder with everything that was made."""

    folder: Path

    def only(self, pattern: str) -> Path:
        (path,) = self.folder.glob(pattern)
        return path

    @property
    def deb(self) -> Path:
        return self.only("*.deb")

    @property
    def version(self) -> str:
        return self.deb.name.split("_")[1]

    @property
    def wheel(self) -> Path:
        return self.only("*.whl")

    @property
    def sdist(self) -> Path:
        return self.only("*.tar.gz")


def scratch(name: str) -> Path:
    """A folder that other users may enter, gone at the end of the run."""
    folder = Path(tempfile.mkdtemp(prefix=f"gatewayd-{name}-"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def start_build(root: Path, out: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """`python -m release` of the project at `root`."""
    command = [sys.executable, "-m", "release", "--out", str(out), "--cache", str(CACHE), *words]
    env = {**os.environ, "PYTHONPATH": str(root / "packaging"), **environment}
    return subprocess.Popen(command, cwd=out, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(build: subprocess.Popen[str], out: Path) -> Build:
    said, _ = build.communicate()
    assert build.returncode == 0, said
    return Build(out)


def copy_of_source(target: Path, *, version: str = "") -> Path:
    """The project's files somewhere else, without git; with another version where one is given."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout.decode()
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    if not names:  # an unpacked sdist
        shutil.copytree(
            ROOT, target, ignore=shutil.ignore_patterns(".venv", "build", "dist", "__pycache__", ".*_cache")
        )
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target / name)
    if version:
        module = target / "gatewayd" / "__init__.py"
        lines = module.read_text().splitlines(keepends=True)
        changed = [f'__version__ = "{version}"\n' if line.startswith("__version__") else line for line in lines]
        module.write_text("".join(changed))
    return target


@functools.cache
def epoch() -> str:
    """What every build here takes as the time of the source: the same as `python -m release` by itself."""
    from release import source

    return str(source.epoch(ROOT))


@functools.cache
def built() -> Build:
    """What `python -m release` makes of this checkout; of GATEWAYD_PACKAGES instead, what `make package` has made."""
    if folder := os.environ.get("GATEWAYD_PACKAGES"):
        return Build(Path(folder).resolve())
    out = scratch("build")
    return finish(start_build(ROOT, out, "--squeeze", "0", SOURCE_DATE_EPOCH=epoch()), out)


@functools.cache
def built_elsewhere() -> Build:
    """The same from another folder, without git, under another umask, language, time zone and hash seed."""
    folder = scratch("elsewhere")
    source = copy_of_source(folder / "source")
    for path in source.rglob("*"):
        path.chmod(0o700 if path.is_dir() or os.access(path, os.X_OK) else 0o600)
    out = folder / "out"
    out.mkdir()
    strange = {"LC_ALL": "C", "TZ": "Pacific/Auckland", "PYTHONHASHSEED": "77", "HOME": str(folder)}
    squeeze = () if "GATEWAYD_PACKAGES" in os.environ else ("--squeeze", "0")
    before = os.umask(0o077)
    try:
        build = start_build(source, out, *squeeze, SOURCE_DATE_EPOCH=epoch(), **strange)
    finally:
        os.umask(before)
    return finish(build, out)


@functools.cache
def unpacked() -> Path:
    """The Debian package as `dpkg-deb -x` lays it out."""
    folder = scratch("root")
    subprocess.run(["dpkg-deb", "-x", str(built().deb), str(folder)], check=True)
    folder.chmod(0o755)
    return folder


@functools.cache
def second_version() -> Build:
    """A build of a later version, with another example configuration."""
    folder = scratch("second")
    source = copy_of_source(folder / "source", version="99.0.0")
    example = source / "etc" / "gatewayd.toml"
    example.write_text(example.read_text() + "\n# the second version\n")
    out = folder / "out"
    out.mkdir()
    return finish(start_build(source, out, "--squeeze", "0", SOURCE_DATE_EPOCH=epoch()), out)
