"""The packages of the lock: downloaded as wheels for the target's Python, held to their hashes, put into a tree.

Everything is done by pip under the target's own interpreter, so that markers and platform tags are those of the target
and not those of the environment that builds.
"""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from release.errors import BuildError
from release.run import run


class Target(NamedTuple):
    """The Python that will run the package: the system's, never one of our own."""

    python: Path
    version: str
    """`3.11`"""

    @property
    def packages(self) -> str:
        """Where packages lie below the environment."""
        return f"lib/python{self.version}/site-packages"


def target(python: Path) -> Target:
    """What is at this path. Raises BuildError where it is not a system's Python 3.11 or newer."""
    code = "import sys; print(*sys.version_info[:2], sys.prefix == sys.base_prefix, sys.base_prefix)"
    major, minor, plain, prefix = run([python, "-I", "-c", code]).split()
    if (int(major), int(minor)) < (3, 11) or plain != "True" or prefix != "/usr":
        raise BuildError(
            f"{python} is Python {major}.{minor} of {prefix}; allowed is the system's own in /usr, 3.11 or newer"
        )
    return Target(python, f"{major}.{minor}")


def _pip(python: Path, *words: str | Path) -> None:
    quiet = ("--disable-pip-version-check", "--quiet", "--no-input")
    run([sys.executable, "-m", "pip", "--python", python, words[0], *quiet, *words[1:]])


def download(target: Target, lock: Path, cache: Path, out: Path) -> list[Path]:
    """Exactly the wheels of the lock, sorted by name. What the cache has is not asked of any index."""
    cache.mkdir(parents=True, exist_ok=True)
    words = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--find-links", cache, "-r", lock)
    try:
        _pip(target.python, "download", "--no-index", "--dest", out, *words)
    except BuildError:
        _pip(target.python, "download", "--dest", out, *words)
        for wheel in out.glob("*.whl"):
            shutil.copyfile(wheel, cache / wheel.name)
    return sorted(out.glob("*.whl"))


def install(target: Target, lock: Path, wheels: Sequence[Path], own: Path, folder: Path) -> None:
    """Install the lock's wheels and our own into a folder of packages; no network, no byte code, no scripts."""
    with tempfile.TemporaryDirectory() as name:
        links = Path(name)
        for wheel in (*wheels, own):
            shutil.copyfile(wheel, links / wheel.name)
        # By name and not by path: a path would be written into direct_url.json.
        digest = hashlib.sha256(own.read_bytes()).hexdigest()
        wanted = links / "requirements.txt"
        wanted.write_text(
            f"{lock.read_text()}\n{own.name.split('-')[0]}=={own.name.split('-')[1]} --hash=sha256:{digest}\n"
        )
        quiet = ("--no-warn-script-location", "--root-user-action", "ignore")
        words = ("--isolated", "--no-index", "--no-deps", "--no-compile", "--require-hashes", *quiet)
        _pip(target.python, "install", *words, "--find-links", links, "--target", folder, "-r", wanted)
    for name in ("bin", "LICENSE", "NOTICE"):  # scripts of others; the licences lie in dist-info too
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for record in folder.glob("*.dist-info/RECORD"):
        _keep_what_exists(folder, record)


def _keep_what_exists(folder: Path, record: Path) -> None:
    """A RECORD without the files that were removed."""
    rows = [row for row in csv.reader(record.read_text().splitlines()) if (folder / row[0]).is_file()]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    record.write_text(text.getvalue())
