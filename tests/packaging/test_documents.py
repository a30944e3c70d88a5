"""SBOM, licence list, checksums, signature: complete, true, and verified the way docs/operations.md says."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from release import sums
from release.errors import BuildError
from release.inventory import inventory

from gatewayd import __version__
from gatewayd.cli import cli
from tests.packaging.support import PACKAGING, ROOT, built, unpacked
from tests.systemd import unit


def lock() -> dict[str, tuple[str, set[str]]]:
    """Version and hashes of each package of the runtime lock that applies here."""
    text = (ROOT / "requirements.txt").read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line and not line.lstrip().startswith("#"):
            wanted = Requirement(line.split(" --hash=")[0].strip())
            if wanted.marker is None or wanted.marker.evaluate():
                version = str(wanted.specifier).removeprefix("==")
                found[canonicalize_name(wanted.name)] = version, set(re.findall(r"--hash=sha256:(\w+)", line))
    return found


def bill() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(built().only("*.cdx.json").read_text())
    return document


# --- what is in it --------------------------------------------------------------------------------------------------


def test_the_sbom_has_every_package_of_the_lock_with_a_hash_of_the_lock() -> None:
    components = {one["name"]: one for one in bill()["components"]}
    assert components.keys() == lock().keys()
    for name, (version, hashes) in lock().items():
        assert components[name]["version"] == version
        assert components[name]["hashes"][0]["content"] in hashes
        assert components[name]["purl"] == f"pkg:pypi/{name}@{version}"
        assert components[name]["licenses"][0]["expression"]


def test_the_sbom_is_whole_in_itself() -> None:
    document = bill()
    assert document["bomFormat"] == "CycloneDX"
    assert document["specVersion"] == "1.6"
    assert document["metadata"]["component"]["version"] == __version__
    nested = [inner for one in document["components"] for inner in one.get("components", ())]
    refs = [one["bom-ref"] for one in (*document["components"], *nested) if "bom-ref" in one]
    refs.append(document["metadata"]["component"]["bom-ref"])
    assert len(refs) == len(set(refs))
    assert {entry["ref"] for entry in document["dependencies"]} == set(refs)
    assert {ref for entry in document["dependencies"] for ref in entry["dependsOn"]} <= set(refs)
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", document["serialNumber"])


def test_the_sbom_names_native_code_and_every_shared_object() -> None:
    components = {one["name"]: one.get("components", []) for one in bill()["components"]}
    named = {inner["name"]: inner for inner in components["pyiec61850-ng"]}
    assert named["libiec61850"]["version"] == "1.6.1"
    assert named["mbedtls"]["cpe"].startswith("cpe:2.3:a:arm:mbed_tls:")
    (packages,) = (unpacked() / "usr/lib/gatewayd/lib").glob("python3.*/site-packages")
    there = {str(path.relative_to(packages)): path for path in packages.rglob("*.so*")}
    told = {inner["name"]: inner for inside in components.values() for inner in inside if inner["type"] == "file"}
    assert there.keys() == told.keys()
    for name, path in there.items():
        assert told[name]["hashes"][0]["content"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_dependencies_are_those_of_the_packages() -> None:
    needs = {entry["ref"]: entry["dependsOn"] for entry in bill()["dependencies"]}
    by_name = {ref.removeprefix("pkg:pypi/").split("@")[0]: refs for ref, refs in needs.items()}
    assert [ref.split("@")[0] for ref in by_name["aiomqtt"]] == ["pkg:pypi/paho-mqtt"]
    assert [ref.split("@")[0] for ref in by_name["openpyxl"]] == ["pkg:pypi/et-xmlfile"]
    assert "pkg:pypi/pyserial@" in "".join(by_name["pymodbus"]), "an extra that the lock asked for"


def test_the_package_carries_its_own_documents() -> None:
    documents = unpacked() / "usr/share/doc/gatewayd"
    assert (documents / "sbom.cdx.json").read_bytes() == built().only("*.cdx.json").read_bytes()
    assert (documents / "third-party-licences.txt").read_bytes() == built().only("*.licences.txt").read_bytes()


def test_the_licence_list_has_everything_with_its_text() -> None:
    text = built().only("*.licences.txt").read_text()
    for one in bill()["components"]:
        assert f"\n{one['name']} {one['version']} " in text
        for inner in one.get("components", ()):
            assert inner["type"] == "file" or f"    {inner['name']}" in text
    for words in (
        "GNU GENERAL PUBLIC LICENSE\n                       Version 3",
        "Apache License\n                           Version 2.0",
        "Boost Software License - Version 1.0",
        "Chris Liechti <cliechti@gmx.net>",
    ):
        assert words in text


def test_what_native_toml_speaks_of_is_in_the_lock() -> None:
    text = (ROOT / "requirements.txt").read_text()
    for entry in tomllib.loads((PACKAGING / "native.toml").read_text())["native"]:
        assert re.search(rf"^{re.escape(entry['wheel'])}==", text, re.MULTILINE), entry["name"]


def made_wheel(folder: Path, *, licence: str | None = "MIT", contents: bytes = b"") -> Path:
    path = folder / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        says = f"License-Expression: {licence}\n" if licence else ""
        archive.writestr("thing-1.0.dist-info/METADATA", f"Metadata-Version: 2.4\nName: thing\nVersion: 1.0\n{says}")
        archive.writestr("thing-1.0.dist-info/licenses/LICENSE", "do as you like")
        archive.writestr("thing/native.so", contents)
    return path


NATIVE = (
    '[[native]]\nwheel = "thing"\nfile = "thing/*.so"\nname = "inner"\nversion = "2.0"\nevidence = "inner 2.0"\n'
    'licence = "MIT"\npurl = "pkg:generic/inner@2.0"\nwhat = "x"\n'
)


def test_native_code_without_its_evidence_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "native.toml").write_text(NATIVE)
    wheel = made_wheel(tmp_path, contents=b"..inner 2.0..")
    (component,) = inventory([wheel], tmp_path, "3.11")
    assert [native.name for native in component.native] == ["inner"]
    wheel = made_wheel(tmp_path, contents=b"..inner 2.1..")
    with pytest.raises(BuildError, match=r"inner: thing/native.so does not contain 'inner 2.0'"):
        inventory([wheel], tmp_path, "3.11")
    (tmp_path / "native.toml").write_text(NATIVE.replace("*.so", "*.dll"))
    with pytest.raises(BuildError, match="0 files"):
        inventory([wheel], tmp_path, "3.11")


def test_a_package_without_a_known_licence_stops_the_build(tmp_path: Path) -> None:
    (tmp_path / "native.toml").write_text("native = []\n")
    with pytest.raises(BuildError, match="thing: its metadata names no licence"):
        inventory([made_wheel(tmp_path, licence=None)], tmp_path, "3.11")


# --- the handbook ---------------------------------------------------------------------------------------------------


def test_what_the_handbook_names_exists() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    named = {path.rstrip("./") for path in re.findall(r"/(?:usr|etc/gatewayd)[\w./-]*", text)}
    own = {path for path in named if "gatewayd" in path and not path.startswith("/usr/lib/gatewayd/bin/python3")}
    made_by_hand = {"/etc/gatewayd/credentials", "/etc/gatewayd/credentials/mqtt-password", "/etc/gatewayd/tls"}
    assert own - made_by_hand
    assert [path for path in sorted(own - made_by_hand) if not (unpacked() / path.lstrip("/")).exists()] == []
    words = set(re.findall(r"`?gatewayd (check|points|watch|control|run|demo|status|doctor|certs)\b", text))
    assert words <= set(cli.commands), "a command that does not exist"


def test_the_handbook_says_what_the_unit_says() -> None:
    service = unit.service()
    table = (ROOT / "docs/operations.md").read_text().split("## Limits")[1]
    assert service["MemoryMax"] == ["1G"]
    assert "`MemoryMax`) | 1 GiB |" in table
    assert f"`TasksMax`) | {service['TasksMax'][0]} |" in table
    assert f"`LimitNOFILE`) | {service['LimitNOFILE'][0]} |" in table


# --- checksums and signature ----------------------------------------------------------------------------------------


def signing_key(path: Path, kind: str = "ed25519") -> Path:
    subprocess.run(["openssl", "genpkey", "-algorithm", kind, "-out", path], check=True, capture_output=True)
    path.chmod(0o600)
    return path


def customer(folder: Path) -> list[list[str]]:
    """The commands that docs/operations.md gives for verifying."""
    text = (ROOT / "docs/operations.md").read_text()
    block = next(block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "pkeyutl -verify" in block)
    lines = block.replace("\\\n", " ").splitlines()
    return [line.split("#")[0].split() for line in lines if line.startswith(("openssl pkeyutl", "sha256sum"))]


def test_the_sums_are_of_everything_released() -> None:
    listed = [line.split("  ") for line in built().only("SHA256SUMS").read_text().splitlines()]
    names = {path.name for path in built().folder.iterdir()} - {"SHA256SUMS", "SHA256SUMS.sig"}
    assert {name for _, name in listed} == names
    assert [name for _, name in listed] == sorted(name for _, name in listed)
    for digest, name in listed:
        assert hashlib.sha256((built().folder / name).read_bytes()).hexdigest() == digest


def test_a_customer_verifies_with_the_commands_of_the_handbook(tmp_path: Path) -> None:
    received = tmp_path / "received"
    shutil.copytree(built().folder, received)
    key = signing_key(tmp_path / "key.pem")
    _, fingerprint = sums.sign(received / "SHA256SUMS", key)
    public = received / "gatewayd-release.pem"
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    der = subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-outform", "DER"], check=True, capture_output=True)
    assert fingerprint == hashlib.sha256(der.stdout).hexdigest()

    commands = customer(received)
    assert [command[0] for command in commands] == ["openssl", "sha256sum"]

    def verified() -> list[int]:
        return [subprocess.run(words, cwd=received, capture_output=True, check=False).returncode for words in commands]

    assert verified() == [0, 0]
    deb = next(received.glob("*.deb"))
    with deb.open("ab") as file:
        file.write(b"\0")
    assert verified() == [0, 1], "the package was changed"
    listed = (received / "SHA256SUMS").read_text()
    (received / "SHA256SUMS").write_text(listed.replace(listed[:8], "00000000"))
    assert verified()[0] != 0, "the sums were changed"
    (received / "SHA256SUMS").write_text(listed)
    signing_key(tmp_path / "other.pem")
    sums.sign(received / "SHA256SUMS", tmp_path / "other.pem")
    assert verified()[0] != 0, "somebody else signed"


@pytest.mark.parametrize(
    ("kind", "mode", "said"),
    [
        ("ed25519", 0o640, "can be read by others"),
        ("x25519", 0o600, "Ed25519 is needed"),
        (None, 0o600, "is not there"),
    ],
)
def test_a_key_that_is_no_good_is_refused_before_anything_is_built(
    kind: str | None, mode: int, said: str, tmp_path: Path
) -> None:
    key = tmp_path / "key.pem"
    if kind is not None:
        signing_key(key, kind).chmod(mode)
    with pytest.raises(BuildError, match=said):
        sums.check_key(key)
