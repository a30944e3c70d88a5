"""The software bill of materials, CycloneDX 1.6 as JSON (ECMA-424)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from release.inventory import Component, Embedded, Native

SPACE = uuid.UUID("0f6ad9d2-3c0e-5e5b-9a52-6f0e0a0f7d11")
"""The name space of our serial numbers; they follow from the content, so that two builds have the same."""


def sbom(version: str, epoch: int, components: Sequence[Component], depends: str) -> str:
    """The document. depends: the Debian packages it needs of the system, as in the control file."""
    main = f"pkg:deb/gatewayd@{version}"
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).isoformat().replace("+00:00", "Z"),
            "component": {
                "type": "application",
                "bom-ref": main,
                "name": "gatewayd",
                "version": version,
                "licenses": [{"expression": "GPL-3.0-or-later"}],
                "purl": main,
                "properties": [{"name": "gatewayd:debian:depends", "value": depends}],
            },
        },
        "components": [_component(one) for one in components],
        "dependencies": _dependencies(main, components),
    }
    number = uuid.uuid5(SPACE, json.dumps(document, sort_keys=True))
    return json.dumps({**document, "serialNumber": f"urn:uuid:{number}"}, indent=1, sort_keys=True) + "\n"


def _component(one: Component) -> dict[str, Any]:
    files = [{"type": "file", "name": path, "hashes": [_sha256(digest)]} for path, digest in one.objects]
    inside: list[dict[str, Any]] = [_native(one, native) for native in one.native]
    inside += [_embedded(one, embedded) for embedded in one.embedded]
    inside += files
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": one.purl,
        "name": one.name,
        "version": one.version,
        "description": one.summary,
        "licenses": [{"expression": one.licence}],
        "purl": one.purl,
        "hashes": [_sha256(one.sha256)],
    }
    return found | ({"components": inside} if inside else {})


def _native(one: Component, native: Native) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": _native_ref(one, native),
        "name": native.name,
        "description": native.what,
        "licenses": [{"license": {"id": native.licence}}],
        "purl": native.purl,
        "evidence": {"occurrences": [{"location": native.file}]},
    }
    return found | {key: value for key, value in (("version", native.version), ("cpe", native.cpe)) if value}


def _embedded(one: Component, embedded: Embedded) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"{one.purl}#{embedded.purl}",
        "name": embedded.name,
        "version": embedded.version,
        "purl": embedded.purl,
    }
    return found | ({"licenses": [{"expression": embedded.licence}]} if embedded.licence else {})


def _native_ref(one: Component, native: Native) -> str:
    return f"{one.purl}#{native.name}"


def _dependencies(main: str, components: Sequence[Component]) -> list[dict[str, Any]]:
    purls = {one.name: one.purl for one in components}
    wanted = {name for one in components for name in one.requires}
    found = [{"ref": main, "dependsOn": [one.purl for one in components if one.name not in wanted]}]
    for one in components:
        natives = [_native_ref(one, native) for native in one.native]
        natives += [f"{one.purl}#{embedded.purl}" for embedded in one.embedded]
        found.append({"ref": one.purl, "dependsOn": [*(purls[name] for name in one.requires), *natives]})
        found += [{"ref": ref, "dependsOn": []} for ref in natives]
    return found


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}
