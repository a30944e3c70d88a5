"""What belongs to this station: the journal, certificates and keys, the rights file."""

from __future__ import annotations

from pathlib import Path

from gatewayd import certificates
from gatewayd.config import Config, named_files
from gatewayd.control import identity
from gatewayd.engineering.doctor.finding import Finding, broken, ok, warning
from gatewayd.problems import ConfigError
from gatewayd.store import inspect
from gatewayd.store.types import JournalError
from gatewayd.tls import credential


def journal(directory: Path) -> Finding:
    """Whether the next start takes the journal, and whether anything waits in it."""
    check = "journal"
    if not (directory / "journal.db").exists():
        return ok(check, "there is none yet")
    try:
        found = inspect.info(directory)
    except inspect.Damaged as error:
        return broken(check, str(error), "keep the file; the next start moves it aside and begins a new epoch")
    except JournalError as error:
        return broken(check, str(error), "see docs/delivery.md, At the start")
    waiting = found.newest - found.handed_over
    if found.high_water is None and found.newest:
        return warning(check, "journal.highwater is missing or unreadable", "the next start begins a new epoch")
    if waiting > 0:
        return ok(check, f"events {found.oldest} to {found.newest}, {waiting} of them wait for the broker")
    return ok(check, f"events {found.oldest} to {found.newest}, all handed over" if found.newest else "empty")


def certificate_files(config: Config) -> list[Finding]:
    """Every TLS file of the configuration, as `gatewayd certs` sees it."""
    files = [(of, use, credential(name)) for of, use, name in named_files(config)]
    # a credential that is not here has its own finding (`credentials`)
    named = [certificates.Named(*one) for one in files if one[2].is_absolute() or one[2].exists()]
    findings = []
    for one in certificates.examine(named):
        check = f"{'key' if one.use == 'key' else 'certificate'} of {one.of}"
        if not one.trouble:
            findings.append(ok(check, one.file + (f", {one.days} days left" if one.days is not None else "")))
        elif one.days is not None and one.days >= 0 and one.not_after and "ends in" in one.trouble:
            findings.append(warning(check, f"{one.file} {one.trouble}", "renew it"))
        else:
            findings.append(broken(check, f"{one.file}: {one.trouble}", "see `gatewayd certs`"))
    return findings


def rights_file(config: Config) -> Finding:
    """Whether the rights file can be used: with mistakes in it nobody may command."""
    check = "rights file"
    name = config.control.rights_file
    if not name:
        return ok(check, "none: every operator the broker lets in may control")
    try:
        rights = identity.load(identity.path_of(name))
    except ConfigError as error:
        return broken(check, "; ".join(map(str, error.mistakes[:5])), "until it is right nobody may command")
    return ok(check, f"{name}: {len(rights.operators or {})} operators")
