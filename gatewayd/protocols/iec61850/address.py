"""Addresses of IEC 61850 points, commands and control blocks. Pure.

`BAY1LD0/MMXU1.TotW.mag.f[MX]`, `BAY1LD0/XCBR1.Pos.stVal[ST]`, `BAY1LD0/XCBR1.Pos` (its stVal or mag with q and t),
`BAY1LD0/LLN0.BR.brcbST` (any instance) or `BAY1LD0/LLN0.BR.brcbST01` (that one). Source: IEC 61850-7-2, 8-1.
"""

from __future__ import annotations

import re
from typing import NamedTuple

FUNCTIONAL_CONSTRAINTS = ("ST", "MX", "SP", "SV", "CF", "DC", "SG", "SE", "SR", "OR", "BL", "EX")
LONGEST_DEVICE = 64
LONGEST_ITEM = 64
"""Characters of an MMS name: domain and item each."""

_NAME = r"[A-Za-z][A-Za-z0-9_]*"
_ADDRESS = re.compile(rf"(?P<ld>{_NAME})/(?P<ln>{_NAME})\.(?P<path>{_NAME}(?:\.{_NAME})*)(?:\[(?P<fc>[A-Z]{{2}})\])?")
_BLOCK = re.compile(rf"(?P<ld>{_NAME})/(?P<ln>{_NAME})\.(?P<fc>BR|RP)\.(?P<name>{_NAME})")

POINT_FORM = "LD/LN.Object, LD/LN.Object.attribute or LD/LN.Object.attribute[FC] is allowed (BAY1LD0/XCBR1.Pos)"
BLOCK_FORM = "LD/LN.BR.name or LD/LN.RP.name is allowed (BAY1LD0/LLN0.BR.brcbST)"


class AddressError(ValueError):
    """What was found and what is allowed, for people."""


class Address(NamedTuple):
    """A data object or attribute. path: object, sub-objects, attributes; fc: "" where it was not given."""

    ld: str
    ln: str
    path: tuple[str, ...]
    fc: str = ""

    def item(self, fc: str = "") -> str:
        """The MMS name within the domain: `XCBR1$ST$Pos$stVal`."""
        return "$".join((self.ln, fc or self.fc, *self.path))

    def __str__(self) -> str:
        return f"{self.ld}/{self.ln}.{'.'.join(self.path)}" + (f"[{self.fc}]" if self.fc else "")


class BlockName(NamedTuple):
    """A report control block, or the name its numbered instances share. buffered: a BRCB."""

    ld: str
    ln: str
    fc: str
    name: str

    @property
    def buffered(self) -> bool:
        """BR is buffered, RP is not."""
        return self.fc == "BR"

    def item(self, name: str = "") -> str:
        """The MMS name of an instance: `LLN0$BR$brcbST01`."""
        return f"{self.ln}${self.fc}${name or self.name}"

    def __str__(self) -> str:
        return f"{self.ld}/{self.ln}.{self.fc}.{self.name}"


def parse(text: str) -> Address:
    """The address of a point. Raises AddressError."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        raise AddressError(f"found {text!r}; {POINT_FORM}")
    fc = match["fc"] or ""
    if fc and fc not in FUNCTIONAL_CONSTRAINTS:
        raise AddressError(f"found functional constraint {fc!r}; {', '.join(FUNCTIONAL_CONSTRAINTS)} are allowed")
    address = Address(match["ld"], match["ln"], tuple(match["path"].split(".")), fc)
    _check_length(text, address.ld, address.item(fc or "ST"))
    return address


def parse_command(text: str) -> Address:
    """The controllable object of a command. Raises AddressError."""
    address = parse(text)
    if address.fc:
        raise AddressError(f"found {text!r}; the object alone is allowed, without [{address.fc}]")
    _check_length(text, address.ld, address.item("CO") + "$Cancel")
    return address


def parse_block(text: str) -> BlockName:
    """The name of a report control block. Raises AddressError."""
    match = _BLOCK.fullmatch(text.strip())
    if match is None:
        raise AddressError(f"found {text!r}; {BLOCK_FORM}")
    name = BlockName(match["ld"], match["ln"], match["fc"], match["name"])
    _check_length(text, name.ld, name.item(name.name + "00"))
    return name


def split_item(item: str) -> tuple[str, str, tuple[str, ...]]:
    """LN, FC and path of an MMS item (`XCBR1$ST$Pos`). Raises AddressError for anything that is no data."""
    ln, *rest = item.split("$")
    if len(rest) < 2 or not all(rest):
        raise AddressError(f"{item!r} is no data object or attribute")
    return ln, rest[0], tuple(rest[1:])


def _check_length(text: str, ld: str, item: str) -> None:
    if len(ld) > LONGEST_DEVICE or len(item) > LONGEST_ITEM:
        raise AddressError(
            f"found {text!r}, {len(ld)} and {len(item)} characters on the wire;"
            f" {LONGEST_DEVICE} for the logical device and {LONGEST_ITEM} for the rest are allowed"
        )
