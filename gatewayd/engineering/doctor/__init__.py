"""`gatewayd doctor`: is this machine, its broker and its station fit to keep what the gateway promises.

Every check is a small function that gives a finding; nothing is sent to a device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from gatewayd.config import Config, ConfigError, load
from gatewayd.engineering.doctor import broker, credentials, machine, mosquitto, station
from gatewayd.engineering.doctor.finding import Finding, Severity, broken, ok, warning
from gatewayd.problems import printable

STATUS = {Severity.OK: 0, Severity.WARNING: 1, Severity.BROKEN: 2}


def doctor(config_path: Path, *, as_json: bool) -> int:
    """Look at everything, print it. Returns 0 all is well, 1 there are warnings, 2 something breaks the promise."""
    findings = examine(config_path)
    worst = max((STATUS[one.severity] for one in findings), default=0)
    if as_json:
        print(msgspec.json.encode({"status": worst, "findings": findings}).decode())
    else:
        for line in lines(findings):
            print(printable(line))
    return worst


def examine(config_path: Path) -> list[Finding]:
    """Every check that makes sense: without a sound configuration only those of the machine."""
    try:
        config = load(config_path)
    except ConfigError as error:
        findings = [broken("configuration", str(one), "see `gatewayd check`") for one in error.mistakes]
        return findings + _all(_of_the_machine(None))
    files = ", ".join(Path(name).name for name in config.sources)
    findings = [ok("configuration", f"no mistakes in {files}"), *_all(_of_the_machine(config))]
    with credentials.seen(config) as found:
        findings += found
        findings += _all(_of_the_station(config))
        if all(one.severity is Severity.OK for one in found):
            findings += _all([lambda: broker.look(config.mqtt)])
        else:
            findings.append(warning("broker", "not asked: a credential is missing here", "see the credentials above"))
        findings += _all([lambda: mosquitto.look(config.mqtt)])
    return findings


def _of_the_machine(config: Config | None) -> list[Callable[[], Finding]]:
    return [
        machine.clock_state,
        machine.processors,
        machine.memory,
        lambda: machine.dnp3_package(config),
        lambda: machine.iec61850_package(config),
    ]


def _of_the_station(config: Config) -> list[Callable[[], Finding | list[Finding]]]:
    state = config.gateway.state_dir
    serial = [device for device in config.devices if device.serial is not None]
    return [
        lambda: machine.state_folder(state),
        lambda: machine.file_system(state),
        lambda: machine.room(state, config.journal.max_size),
        lambda: machine.sync_time(state),
        lambda: station.journal(state),
        lambda: [machine.serial_port(device) for device in serial],
        lambda: station.rights_file(config),
        lambda: station.certificate_files(config),
    ]


def _all(checks: Sequence[Callable[[], Finding | list[Finding]]]) -> list[Finding]:
    findings: list[Finding] = []
    for check in checks:
        try:
            found = check()
        except OSError as error:  # of a file nobody thought of: the other checks go on
            found = warning("doctor", f"a check could not be made: {error}", "run the doctor as root")
        findings += found if isinstance(found, list) else [found]
    return findings


def lines(findings: Sequence[Finding]) -> list[str]:
    """For people: a line a finding, what to do below it, the sum at the end."""
    words = {Severity.OK: "ok", Severity.WARNING: "WARNING", Severity.BROKEN: "BROKEN"}
    width = max(len(one.check) for one in findings)
    out = []
    for one in findings:
        out.append(f"{words[one.severity]:<7}  {one.check:<{width}}  {one.found}")
        if one.do:
            out.append(f"{'':<7}  {'':<{width}}  -> {one.do}")
    count = {severity: sum(one.severity is severity for one in findings) for severity in Severity}
    out.append(
        f"{count[Severity.BROKEN]} break the promise, {count[Severity.WARNING]} warnings, {count[Severity.OK]} well"
    )
    return out
