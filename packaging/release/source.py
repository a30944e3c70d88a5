"""The source: which files belong to the project, a clean copy of them, and the wheel and the sdist made from it."""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from release.errors import BuildError
from release.run import run

NOT_SOURCE = {".git", ".venv", "build", "dist", "demo-state", "__pycache__", "PKG-INFO"}
"""Left out where there is no git to ask; with everything else that begins with a dot, but .ci and .gitignore."""


def files(root: Path) -> list[Path]:
    """The project's files relative to its root, sorted: what git tracks, or all that is no build product."""
    if (root / ".git").exists():
        # The checkout may belong to another user than the one who builds.
        listed = run(["git", "-c", f"safe.directory={root}", "-C", root, "ls-files", "-z"])
        names = [Path(name) for name in listed.split("\0") if name]
    else:
        names = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
        names = [name for name in names if not any(_is_product(part) for part in name.parts)]
    return sorted(name for name in names if (root / name).is_file())


def _is_product(part: str) -> bool:
    return (
        part in NOT_SOURCE
        or part.endswith((".egg-info", ".log"))
        or (part[0] == "." and part not in (".ci", ".gitignore"))
    )


def export(root: Path, target: Path, epoch: int) -> None:
    """Copy the project's files; modes and times are the same whatever the umask and the checkout."""
    for name in files(root):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, copy)
        copy.chmod(0o755 if os.access(root / name, os.X_OK) else 0o644)
        os.utime(copy, (epoch, epoch))


def version(root: Path) -> str:
    """The one place where the version stands. Raises BuildError."""
    found = re.search(
        r'^__version__ = "(\d+\.\d+\.\d+)"$', (root / "gatewayd" / "__init__.py").read_text(), re.MULTILINE
    )
    if found is None:
        raise BuildError('gatewayd/__init__.py has no line __version__ = "1.2.3"')
    return found[1]


def epoch(root: Path) -> int:
    """Seconds since 1970 that every file of the build gets: SOURCE_DATE_EPOCH, the last commit, else the changelog."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given:
        if not given.isdecimal():
            raise BuildError(f"SOURCE_DATE_EPOCH is {given!r}; whole seconds since 1970 are allowed")
        return int(given)
    if (root / ".git").exists():
        try:
            return int(run(["git", "-c", f"safe.directory={root}", "-C", root, "log", "-1", "--format=%ct"]))
        except (BuildError, ValueError):
            pass  # a repository without a commit
    return int((root / "CHANGELOG.md").stat().st_mtime)


def build_wheel(source: Path, out: Path, epoch: int) -> Path:
    """The wheel, by the build backend of pyproject.toml. `source` is a copy of ours: the backend writes into it."""
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    before = os.umask(0o022)  # the backend takes modes from it
    try:
        run([sys.executable, "-W", "ignore", "-c", code, out], cwd=source, env={"SOURCE_DATE_EPOCH": str(epoch)})
    finally:
        os.umask(before)
    (wheel,) = out.glob("gatewayd-*.whl")
    return wheel


def build_sdist(source: Path, wheel: Path, out: Path, epoch: int) -> Path:
    """The sdist: all of the source (tests, simulators and packaging too) and the metadata as PKG-INFO."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        info = archive.read(metadata)
    folder = f"gatewayd-{version(source)}"
    contents = {str(name): (source / name).read_bytes() for name in files(source)} | {"PKG-INFO": info}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in sorted(contents.items()):
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime = len(data), epoch
            entry.mode = 0o755 if name != "PKG-INFO" and os.access(source / name, os.X_OK) else 0o644
            archive.addfile(entry, io.BytesIO(data))
    path = out / f"{folder}.tar.gz"
    with path.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=epoch) as squeezed:
        squeezed.write(packed.getvalue())
    return path


def has_changes(root: Path) -> bool:
    """Whether the checkout differs from its last commit: such a build cannot be repeated by anybody else."""
    if not (root / ".git").exists():
        return False
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), "status", "--porcelain", "--untracked-files=no"]
    return bool(subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip())
