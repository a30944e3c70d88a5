"""The command line of the build: everything that is released, into one folder.

PYTHONPATH=packaging python -m release --out dist [--sign-key KEY]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from release import deb, source, sums, tree, wheels
from release.errors import BuildError
from release.inventory import inventory
from release.licences import licences
from release.sbom import sbom

ROOT = Path(__file__).resolve().parents[2]


class Built(NamedTuple):
    """What a build made."""

    paths: list[Path]
    fingerprint: str
    """of the key that signed; empty: not signed"""


def make(root: Path, out: Path, *, python: Path, cache: Path, key: Path | None = None, squeeze: int = 6) -> Built:
    """Build everything from the project at `root` into `out`. Raises BuildError.

    python: the system's interpreter the package will run with
    cache: a folder where downloaded wheels stay
    key: Ed25519, to sign with
    squeeze: 1 to 9, how hard the package is compressed; 0 not at all
    """
    target = wheels.target(python)
    if key is not None:
        sums.check_key(key)
    epoch, version = source.epoch(root), source.version(root)
    with tempfile.TemporaryDirectory(prefix="gatewayd-release-") as name:
        work = Path(name)
        done = work / "done"
        for folder in ("source", "scratch", "wheels", "tree", "done"):
            (work / folder).mkdir()
        source.export(root, work / "source", epoch)
        shutil.copytree(work / "source", work / "scratch", dirs_exist_ok=True)
        wheel = source.build_wheel(work / "scratch", done, epoch)
        source.build_sdist(work / "source", wheel, done, epoch)
        lock = work / "source" / "requirements.txt"
        found = wheels.download(target, lock, cache, work / "wheels")
        components = inventory(found, work / "source" / "packaging", target.version)
        tree.environment(target, lock, found, wheel, work / "tree")
        needs = deb.depends(work / "tree", target)
        documents = {
            "cdx.json": sbom(version, epoch, components, needs),
            "licences.txt": licences(components),
        }
        tree.files(
            work / "source",
            work / "tree",
            version=version,
            epoch=epoch,
            sbom=documents["cdx.json"],
            licences=documents["licences.txt"],
        )
        package = deb.build(
            work / "tree", work / "source", done, version=version, epoch=epoch, needs=needs, squeeze=squeeze
        )
        for suffix, text in documents.items():
            (done / f"{package.stem}.{suffix}").write_text(text)
        released = sums.write_sums(sorted(done.iterdir()), done)
        fingerprint = sums.sign(released, key)[1] if key is not None else ""
        return Built(_hand_over(done, out), fingerprint)


def _hand_over(done: Path, out: Path) -> list[Path]:
    """Move the finished files into place; a signature of an earlier build never stays beside new sums."""
    out.mkdir(parents=True, exist_ok=True)
    (out / sums.SIGNATURE).unlink(missing_ok=True)
    moved = []
    for path in sorted(done.iterdir()):
        path.chmod(0o644)
        moved.append(Path(shutil.move(path, out / path.name)))
    return moved


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 built, 1 not (said on standard error)."""
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for what is made (dist/)")
    parser.add_argument("--python", type=Path, default=Path("/usr/bin/python3"), help="the system's Python")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "wheels", help="folder of downloaded wheels")
    parser.add_argument("--sign-key", type=Path, help="Ed25519 key, PEM, mode 0600; never in the repository")
    parser.add_argument("--squeeze", type=int, choices=range(10), default=6, help="how hard the .deb is compressed (6)")
    given = parser.parse_args(arguments)
    try:
        built = make(ROOT, given.out, python=given.python, cache=given.cache, key=given.sign_key, squeeze=given.squeeze)
    except BuildError as error:
        print(f"the build ends: {error}", file=sys.stderr)
        return 1
    for path in built.paths:
        print(f"{path.stat().st_size:>10}  {path}")
    if source.has_changes(ROOT):
        print("the checkout has changes that are not committed: nobody else can make these files again")
    if built.fingerprint:
        print(f"signed by the key with the fingerprint {built.fingerprint}")
    else:
        print("not signed; SIGN_KEY=path signs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
