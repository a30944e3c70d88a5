"""The files of the Debian package, as they will lie below `/`."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from release import wheels
from release.run import run

HOME = "usr/lib/gatewayd"
DOC = "usr/share/doc/gatewayd"
EXAMPLES = "usr/share/gatewayd"
"""Not below doc: images for small boxes leave that out."""


def environment(target: wheels.Target, lock: Path, found: Sequence[Path], own: Path, tree: Path) -> None:
    """The private Python environment: a venv written by hand, since the module's own has this machine's paths in it.

    The interpreter is a link with an absolute path, so that the unpacked package runs from any folder:
    a new version's `check` can be tried on a configuration before it is installed.
    """
    home = tree / HOME
    (home / "bin").mkdir(parents=True)
    packages = home / target.packages
    packages.mkdir(parents=True)
    wheels.install(target, lock, found, own, packages)
    (home / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {target.version}\n"
    )
    (home / "bin" / "python3").symlink_to(f"/usr/bin/python{target.version}")
    # -P: nothing is ever imported from the folder of the script.
    (home / "bin" / "gatewayd").write_text(f"#!/{HOME}/bin/python3 -P\nfrom gatewayd.cli import main\n\nmain()\n")
    (home / "bin" / "gatewayd").chmod(0o755)
    (tree / "usr/bin").mkdir()
    (tree / "usr/bin/gatewayd").symlink_to("../lib/gatewayd/bin/gatewayd")


def files(source: Path, tree: Path, *, version: str, epoch: int, sbom: str, licences: str) -> None:
    """Everything beside the environment: units, configuration, examples, documentation.

    source: a clean copy of the project; sbom, licences: their text
    """
    for name, place in {
        "systemd/gatewayd.service": "usr/lib/systemd/system/gatewayd.service",
        "systemd/sysusers.d/gatewayd.conf": "usr/lib/sysusers.d/gatewayd.conf",
        "systemd/tmpfiles.d/gatewayd.conf": "usr/lib/tmpfiles.d/gatewayd.conf",
        "systemd/site.conf": f"{EXAMPLES}/site.conf",
        "systemd/serial.conf": f"{EXAMPLES}/serial.conf",
        "systemd/udev/70-gatewayd-serial.rules": f"{EXAMPLES}/70-gatewayd-serial.rules",
        "etc/gatewayd.toml": "etc/gatewayd/gatewayd.toml",
        "etc/points": "etc/gatewayd/points",
        "etc/demo": f"{EXAMPLES}/demo",
        "etc/mosquitto": f"{EXAMPLES}/mosquitto",
        "etc/rights.toml": f"{EXAMPLES}/rights.toml",
        "etc/prometheus/alerts.yml": f"{EXAMPLES}/prometheus/alerts.yml",
        "etc/grafana/gatewayd.json": f"{EXAMPLES}/grafana/gatewayd.json",
        "examples": f"{EXAMPLES}/examples",
        "README.md": f"{DOC}/README.md",
        "CHANGELOG.md": f"{DOC}/CHANGELOG.md",
        "SECURITY.md": f"{DOC}/SECURITY.md",
        "systemd/README.md": f"{DOC}/systemd/README.md",
        "packaging/README.md": f"{DOC}/packaging/README.md",
        "docs": f"{DOC}/docs",
        "packaging/debian/copyright": f"{DOC}/copyright",
        "packaging/debian/lintian-overrides": "usr/share/lintian/overrides/gatewayd",
    }.items():
        target = tree / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target)
        else:
            shutil.copyfile(source / name, target)
    # So that the links of the pages lead somewhere here too.
    for name in ("etc", "examples"):
        (tree / DOC / name).symlink_to(os.path.relpath(f"/{EXAMPLES}/{name.removeprefix('etc')}", f"/{DOC}"))
    (tree / DOC / "sbom.cdx.json").write_text(sbom)
    (tree / DOC / "third-party-licences.txt").write_text(licences)
    day = datetime.fromtimestamp(epoch, UTC)
    _compressed(tree / DOC / "changelog.gz", _changelog(version, day))
    script = source / "packaging/release/manpage.py"
    manual = run([tree / HOME / "bin/python3", "-P", script, version, f"{day:%Y-%m-%d}"])
    _compressed(tree / "usr/share/man/man8/gatewayd.8.gz", manual)


def _changelog(version: str, day: datetime) -> str:
    """The form Debian wants; what changed is told in CHANGELOG.md."""
    return (
        f"gatewayd ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md beside this file.\n\n"
        f" -- gatewayd maintainers <maintainers@gatewayd.invalid>  {day:%a, %d %b %Y %H:%M:%S} +0000\n"
    )


def _compressed(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def normalise(tree: Path, epoch: int) -> None:
    """The same modes and times whatever the umask and the wheels say: 0755 for folders and bin/, 0644 for the rest."""
    for path in [tree, *sorted(tree.rglob("*"))]:
        if not path.is_symlink():
            program = path.parent in (tree / HOME / "bin", tree / "DEBIAN") and path.read_bytes().startswith(b"#!")
            path.chmod(0o755 if path.is_dir() or program else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
