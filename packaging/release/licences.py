"""The list of other people's software in the package, with the licence texts that have to go along."""

from __future__ import annotations

from collections.abc import Sequence

from release.inventory import Component

RULE = "=" * 100


def licences(components: Sequence[Component]) -> str:
    """First the list, then every text once, with the names of those it belongs to."""
    rows = []
    owners: dict[str, list[str]] = {}
    for one in components:
        title = f"{one.name} {one.version}"
        rows.append(f"{title:<40} {one.licence}")
        for text in one.texts:
            owners.setdefault(text, []).append(title)
        for native in one.native:
            inside = f"{native.name} {native.version}".strip()
            rows.append(f"    {inside:<36} {native.licence:<16} in {native.file}")
            for text in native.texts:
                owners.setdefault(text, []).append(inside)
        for embedded in one.embedded:
            inside = f"{embedded.name} {embedded.version}"
            rows.append(f"    {inside:<36} {embedded.licence or '-':<16} as the wheel's own SBOM says")
    texts = [f"{RULE}\n{', '.join(dict.fromkeys(names))}\n{RULE}\n\n{text}\n" for text, names in owners.items()]
    head = "Software of others in gatewayd, and its licences. gatewayd itself is GPL-3.0-or-later.\n"
    return "\n".join([head, *rows, "", *texts])
