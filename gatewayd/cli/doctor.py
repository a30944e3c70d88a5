"""`gatewayd doctor`."""

from __future__ import annotations

from pathlib import Path

import click

from gatewayd.cli.options import config_option


@click.command(short_help="Is this machine, its broker and its station fit to keep the promise?")
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object: status and findings.")
def doctor(config_path: Path, *, as_json: bool) -> int:
    """Look at everything the gateway's promise rests on, and say what to do where something is not right.

    Configuration, clock, disk and state folder, journal, serial ports, certificates and keys, rights file, native
    packages, and the broker: whether it answers and speaks MQTT 5, its limits, our rights there, and, for a mosquitto
    on this machine, what it keeps over a restart. Devices are not touched; the gateway may be running.

    \b
    Exit status: 0 all is well, 1 there are warnings, 2 something breaks what the gateway promises.
    """
    from gatewayd.engineering.doctor import doctor

    return doctor(config_path, as_json=as_json)
