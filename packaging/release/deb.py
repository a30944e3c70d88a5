"""The Debian package: control data around the tree, put together by dpkg-deb.

dpkg-deb and not debhelper: there is nothing to configure or compile, three scripts are all the logic, and everything
that goes in is written here. What debhelper would add (sysusers, tmpfiles, byte code) is three lines of postinst.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from release import tree as layout
from release.run import run
from release.wheels import Target

CONTROL = "DEBIAN"
SCRIPTS = ("postinst", "prerm", "postrm")
MAINTAINER = "gatewayd maintainers <maintainers@gatewayd.invalid>"
"""Where the builder has not set DEBFULLNAME and DEBEMAIL."""


def architecture() -> str:
    """Of this machine, as Debian calls it: the wheels are made for it."""
    return run(["dpkg", "--print-architecture"]).strip()


def depends(tree: Path, target: Target) -> str:
    """What the package needs of the system: its Python, systemd, and the libraries its native code is linked with.

    The versions come from dpkg-shlibdeps, which looks up every symbol used.
    """
    major, minor = target.version.split(".")
    objects = [path for path in sorted((tree / layout.HOME).rglob("*.so*")) if path.is_file()]
    own = sorted({path.parent for path in objects if path.parent.name.endswith(".libs")})
    (tree / CONTROL).mkdir()  # dpkg-shlibdeps knows by it what $ORIGIN in a library's path means
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "debian").mkdir()
        (Path(name) / "debian/control").write_text("Source: gatewayd\n\nPackage: gatewayd\nArchitecture: any\n")
        command = [
            "dpkg-shlibdeps",
            "-O",
            "--warnings=0",
            "--ignore-missing-info",
            *(f"-l{path}" for path in own),
            *(f"-e{path}" for path in objects),
        ]
        said = run(command, cwd=Path(name))
    libraries = re.search(r"shlibs:Depends=(.*)", said)
    # python3-minimal has py3compile; systemd makes the user and runs the service.
    python = f"python3 (>= {target.version}), python3 (<< {major}.{int(minor) + 1})"
    return ", ".join([python, "systemd", *([libraries[1]] if libraries else [])])


def build(tree: Path, source: Path, out: Path, *, version: str, epoch: int, needs: str, squeeze: int = 6) -> Path:
    """Write the package file. `tree` gets its control data and normal modes and times."""
    control = tree / CONTROL
    payload = sorted(path for path in tree.rglob("*") if not path.is_relative_to(control))
    plain = [path for path in payload if path.is_file() and not path.is_symlink()]
    conffiles = [path for path in plain if path.is_relative_to(tree / "etc")]
    (control / "conffiles").write_text("".join(f"/{path.relative_to(tree)}\n" for path in conffiles))
    (control / "md5sums").write_text("".join(_md5(path, tree) for path in plain if path not in conffiles))
    for name in SCRIPTS:
        shutil.copyfile(source / "packaging/debian" / name, control / name)
    fields = {
        "VERSION": version,
        "ARCHITECTURE": architecture(),
        "MAINTAINER": _maintainer(),
        "SIZE": str(_installed_size(payload)),
        "DEPENDS": needs,
    }
    text = (source / "packaging/debian/control.in").read_text()
    (control / "control").write_text(re.sub(r"@([A-Z]+)@", lambda found: fields[found[1]], text))
    layout.normalise(tree, epoch)
    path = out / f"gatewayd_{version}_{fields['ARCHITECTURE']}.deb"
    kind = ("-Zxz", f"-z{squeeze}") if squeeze else ("-Znone",)
    # One thread: xz writes other bytes with several.
    same = {"SOURCE_DATE_EPOCH": str(epoch), "DPKG_DEB_THREADS_MAX": "1"}
    run(["dpkg-deb", "--root-owner-group", *kind, "--build", tree, path], env=same)
    return path


def _md5(path: Path, tree: Path) -> str:
    """For `dpkg --verify`; nothing to do with security, that is what SHA256SUMS and its signature are for."""
    return f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(tree)}\n"


def _installed_size(payload: list[Path]) -> int:
    """In KiB, each file rounded up, one for everything else (deb-substvars(5))."""
    return sum(-(-path.stat().st_size // 1024) if path.is_file() and not path.is_symlink() else 1 for path in payload)


def _maintainer() -> str:
    name, mail = os.environ.get("DEBFULLNAME"), os.environ.get("DEBEMAIL")
    return f"{name} <{mail}>" if name and mail else MAINTAINER
