"""Credentials of systemd as the service sees them, for a doctor that runs beside it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gatewayd.config import Config, named_files
from gatewayd.engineering.doctor.finding import Finding, ok, warning

DROP_INS = Path("/etc/systemd/system/gatewayd.service.d")
_DIRECTORY = "CREDENTIALS_DIRECTORY"


def names(config: Config) -> list[str]:
    """The bare names in the configuration: credentials, not paths."""
    files = [name for _, _, name in named_files(config)]
    files.append(config.mqtt.password_file)
    return sorted({name for name in files if name and "/" not in name})


@contextmanager
def seen(config: Config) -> Iterator[list[Finding]]:
    """Make the files that the unit's drop-ins name for credentials visible as in the service; gives the findings."""
    wanted = names(config)
    if not wanted or os.environ.get(_DIRECTORY):
        yield []
        return
    loaded = _loaded(DROP_INS)
    with tempfile.TemporaryDirectory(prefix="gatewayd-doctor-") as folder:
        findings = []
        for name in wanted:
            source = loaded.get(name)
            if source is None:
                where = f"no LoadCredential={name}: with a file was found in {DROP_INS}"
                do = "add it to site.conf; an encrypted one can be read by the service only"
                findings.append(warning(f"credential {name}", where, do))
            elif not os.access(source, os.R_OK):
                findings.append(warning(f"credential {name}", f"{source} is not readable for us", "run as root"))
            else:
                (Path(folder) / name).symlink_to(source)
                findings.append(ok(f"credential {name}", str(source)))
        os.environ[_DIRECTORY] = folder
        try:
            yield findings
        finally:
            del os.environ[_DIRECTORY]


def _loaded(drop_ins: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(drop_ins.glob("*.conf")):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.strip().partition("=")
            name, colon, source = value.partition(":")
            if key == "LoadCredential" and colon:
                found[name.strip()] = Path(source.strip())
    return found
