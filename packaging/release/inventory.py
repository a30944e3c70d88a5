"""What is in the package: every wheel with its licence, the native code inside it, and the evidence for both."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import tomllib
import zipfile
from collections.abc import Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release.errors import BuildError

LICENCE_FILES = re.compile(r"licen[cs]e|copying|notice|authors|e[dp]l-v\d", re.IGNORECASE)
SPDX = {
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
    "License :: OSI Approved :: GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
}
"""Classifiers of packages that do not say it as an expression."""


class Native(NamedTuple):
    """Native code inside a wheel, from native.toml."""

    name: str
    version: str
    licence: str
    texts: tuple[str, ...]
    purl: str
    cpe: str
    what: str
    file: str
    """the file inside the wheel"""


class Embedded(NamedTuple):
    """What a wheel's own SBOM says is inside it (auditwheel, maturin)."""

    name: str
    version: str
    purl: str
    licence: str
    """empty where it does not say"""


class Component(NamedTuple):
    """One wheel."""

    name: str
    version: str
    summary: str
    licence: str
    """SPDX expression"""
    texts: tuple[str, ...]
    """licence texts and notices"""
    sha256: str
    requires: tuple[str, ...]
    """names of others of the inventory"""
    native: tuple[Native, ...]
    embedded: tuple[Embedded, ...]
    """without what `native` has already"""
    objects: tuple[tuple[str, str], ...]
    """path inside the wheel and SHA-256 of each shared object"""

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def inventory(wheels: Sequence[Path], folder: Path, python: str) -> list[Component]:
    """All wheels, sorted by name.

    folder: packaging/, with native.toml and licences/
    python: `3.11`, for the markers of what a package requires
    An entry of native.toml about a wheel that is not there is passed over: on another architecture it may not be.
    Raises BuildError where native.toml says what the wheels do not show, or a licence has no text.
    """
    known = tomllib.loads((folder / "native.toml").read_text())["native"]
    names: set[str] = {canonicalize_name(wheel.name.split("-")[0]) for wheel in wheels}
    found = [_component(wheel, folder, known, names, python) for wheel in wheels]
    return sorted(found, key=lambda component: component.name)


def _component(wheel: Path, folder: Path, known: list[dict[str, str]], names: set[str], python: str) -> Component:
    with zipfile.ZipFile(wheel) as archive:
        inside = [name for name in archive.namelist() if not name.endswith("/")]
        info = next(name for name in inside if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        name = canonicalize_name(metadata["Name"])
        texts = _texts(archive, info, inside) or _own_text(folder, f"{name}.txt")
        native = tuple(
            _native(archive, inside, entry, folder) for entry in known if canonicalize_name(entry["wheel"]) == name
        )
        objects = tuple(
            (path, hashlib.sha256(archive.read(path)).hexdigest()) for path in sorted(inside) if ".so" in path
        )
        said = [json.loads(archive.read(path)) for path in sorted(inside) if path.startswith(f"{info}/sboms/")]
    licence = _licence(metadata)
    texts = texts or next((one.texts for one in native if one.licence == licence), ())
    if not texts:
        raise BuildError(f"{wheel.name} has no licence text; put it at packaging/licences/{name}.txt")
    return Component(
        name=name,
        version=metadata["Version"],
        summary=metadata["Summary"] or "",
        licence=licence,
        texts=texts,
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        requires=_requires(metadata, names, python),
        native=native,
        embedded=_embedded(name, native, said),
        objects=objects,
    )


def _texts(archive: zipfile.ZipFile, info: str, inside: list[str]) -> tuple[str, ...]:
    paths = [
        path for path in sorted(inside) if path.startswith(f"{info}/") and LICENCE_FILES.search(path.rpartition("/")[2])
    ]
    return tuple(archive.read(path).decode(errors="replace").strip() for path in paths)


def _own_text(folder: Path, name: str) -> tuple[str, ...]:
    path = folder / "licences" / name
    return (path.read_text().strip(),) if path.is_file() else ()


def _licence(metadata: Message) -> str:
    expression = metadata["License-Expression"]
    if expression:
        return str(expression)
    for classifier in metadata.get_all("Classifier") or ():
        if classifier in SPDX:
            return SPDX[classifier]
    raise BuildError(
        f"{metadata['Name']}: its metadata names no licence that is known to packaging/release/inventory.py"
    )


def _requires(metadata: Message, names: set[str], python: str) -> tuple[str, ...]:
    found = set()
    for text in metadata.get_all("Requires-Dist") or ():
        wanted = Requirement(text)
        # Extras that were asked for are in the lock, others are not.
        applies = wanted.marker is None or any(
            wanted.marker.evaluate({"extra": extra, "python_version": python})
            for extra in ("", *(metadata.get_all("Provides-Extra") or ()))
        )
        if applies and canonicalize_name(wanted.name) in names:
            found.add(canonicalize_name(wanted.name))
    return tuple(sorted(found))


def _native(archive: zipfile.ZipFile, inside: list[str], entry: dict[str, str], folder: Path) -> Native:
    paths = fnmatch.filter(inside, entry["file"])
    if len(paths) != 1:
        raise BuildError(
            f"native.toml: {entry['name']}: {entry['wheel']} has {len(paths)} files {entry['file']}, not one"
        )
    if entry["evidence"].encode() not in archive.read(paths[0]):
        raise BuildError(f"native.toml: {entry['name']}: {paths[0]} does not contain {entry['evidence']!r}")
    texts = _own_text(folder, entry["text"]) if "text" in entry else ()
    if "text" in entry and not texts:
        raise BuildError(f"native.toml: {entry['name']}: there is no packaging/licences/{entry['text']}")
    return Native(
        name=entry["name"],
        version=entry["version"],
        licence=entry["licence"],
        texts=texts,
        purl=entry["purl"],
        cpe=entry.get("cpe", ""),
        what=entry["what"],
        file=paths[0],
    )


def _embedded(name: str, native: tuple[Native, ...], said: list[dict[str, Any]]) -> tuple[Embedded, ...]:
    known = {one.purl for one in native}
    found: dict[str, Embedded] = {}
    for component in (component for document in said for component in document.get("components", ())):
        purl = re.split("[?#]", component.get("purl", ""))[0]
        if purl and purl not in known and not purl.startswith(f"pkg:pypi/{name}@"):
            terms = [one.get("expression") or one["license"].get("id", "") for one in component.get("licenses", ())]
            found[purl] = Embedded(
                component["name"], component.get("version", ""), purl, " AND ".join(filter(None, terms))
            )
    return tuple(found[purl] for purl in sorted(found))
