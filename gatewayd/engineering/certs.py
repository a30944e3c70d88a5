"""`gatewayd certs`: every certificate, key and list of the configuration; and a lab authority for trying TLS."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gatewayd import certificates, labca
from gatewayd.config import ConfigError, load, named_files
from gatewayd.problems import printable
from gatewayd.tls import credential

OK, TROUBLE = 0, 1


def show(config_path: Path, *, as_json: bool) -> int:
    """Print what every file says and what is wrong with it. Returns 0 nothing, 1 something, or the config is wrong."""
    try:
        config = load(config_path)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return TROUBLE
    named = [certificates.Named(of, use, credential(name)) for of, use, name in named_files(config)]
    found = certificates.examine(named)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        for line in lines(found):
            print(printable(line))
    return TROUBLE if any(one.trouble for one in found) else OK


def lines(found: Sequence[certificates.Finding]) -> list[str]:
    """For people, a line a file, what is wrong below it."""
    if not found:
        return ["the configuration names no certificates"]
    out = []
    for one in found:
        until = f", until {one.not_after}" if one.not_after else ""
        left = f" ({one.days} days)" if one.days is not None else ""
        names = f" for {', '.join(one.names)}" if one.names else ""
        out.append(
            f"{one.of:<12} {one.use:<5} {one.file}: {one.subject or one.issuer or 'private key'}{names}{until}{left}"
        )
        if one.trouble:
            out.append(f"{'':<12} {'':<5} ATTENTION: {one.trouble}")
    return out


def new_lab(folder: Path, names: Sequence[str]) -> int:
    """Make an authority and certificates in a folder. Returns 0, or 1 where something is there already."""
    try:
        written = labca.make(folder, names)
    except FileExistsError as error:
        print(f"gatewayd certs: {error.filename} is there already; choose an empty folder", file=sys.stderr)
        return TROUBLE
    except OSError as error:
        print(f"gatewayd certs: {folder}: {error.strerror or error}", file=sys.stderr)
        return TROUBLE
    for path in written:
        print(path)
    print("for trying only: the authority's key lies beside the others", file=sys.stderr)
    return OK
