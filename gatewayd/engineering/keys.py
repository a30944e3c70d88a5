"""`gatewayd keys`: an operator's Ed25519 key pair: the private key in a file, the public one for the rights file."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

from gatewayd.control.keys import KeyFileError, SigningKey
from gatewayd.engineering.audit import open_new

OK, REFUSED = 0, 1


def new(path: Path, operator: str) -> int:
    """Make a pair; prints what belongs into the rights file. Returns 0, or 1 where the file cannot be made."""
    key = SigningKey.new()
    try:
        with open_new(path) as file:
            file.write(key.pem())
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        print(f"gatewayd keys: {path} is there already; nothing is overwritten", file=sys.stderr)
        return REFUSED
    except OSError as error:
        print(f"gatewayd keys: {path} cannot be written: {error.strerror or error}", file=sys.stderr)
        return REFUSED
    print(f"{path} has the private key (mode 0600): it stays with {operator or 'its operator'} and goes nowhere else.")
    print(_for_the_rights_file(key, operator))
    return OK


def show(path: Path, operator: str) -> int:
    """Print what belongs into the rights file for a key that exists. Returns 0, or 1 where it cannot be used."""
    try:
        key = SigningKey.read(path)
    except KeyFileError as error:
        print(f"gatewayd keys: {error}", file=sys.stderr)
        return REFUSED
    print(_for_the_rights_file(key, operator))
    return OK


def _for_the_rights_file(key: SigningKey, operator: str) -> str:
    public = base64.b64encode(key.public).decode()
    where = f"[operator.{operator}]" if operator else "the operator's table"
    return f'In the rights file, under {where} (key {key.id}):\n\nkeys = ["{public}"]'
