"""Unit files as systemd reads them: drop-ins come after, an empty value clears what a key has gathered."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "systemd"
UNIT = FOLDER / "gatewayd.service"


def sections(paths: Iterable[Path]) -> dict[str, dict[str, list[str]]]:
    """Values by section and key, in order."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in paths:
        section = ""
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line or line[0] in "#;":
                continue
            if line.startswith("["):
                section = line.strip("[]")
                continue
            key, equals, value = line.partition("=")
            assert equals, f"{path}:{number}: {line!r} is no setting"
            assert section, f"{path}:{number}: {line!r} stands before any section"
            values = found.setdefault(section, {}).setdefault(key, [])
            if value:
                values.append(value)
            else:
                values.clear()
    return found


def service(*dropins: str) -> dict[str, list[str]]:
    """The [Service] section of our unit with these drop-ins of `systemd/`."""
    return sections([UNIT, *(FOLDER / name for name in dropins)])["Service"]
