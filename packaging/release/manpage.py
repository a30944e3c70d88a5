"""The manual page, from the command line's own words. Runs under the packaged Python: `manpage.py VERSION DATE`."""

from __future__ import annotations

import re
import sys

import click

from gatewayd.cli import cli


def page(version: str, date: str) -> str:
    """gatewayd(8) in man's macros."""
    lines = [
        f'.TH GATEWAYD 8 "{date}" "gatewayd {version}" "System administration"',
        ".SH NAME",
        r"gatewayd \- substation gateway from DNP3, IEC 61850 and Modbus to MQTT",
        ".SH SYNOPSIS",
        r".B gatewayd",
        r"\fICOMMAND\fR [\fIOPTION\fR]...",
        ".SH DESCRIPTION",
        *_text(cli.help or ""),
        ".SH COMMANDS",
    ]
    for name, command in cli.commands.items():
        lines += [f".SS gatewayd {name}", *_text(command.help or "")]
        for param in command.params:
            if isinstance(param, click.Option):
                record = param.get_help_record(click.Context(command, info_name=name))
                if record is not None:
                    lines += [".TP", rf"\fB{_escape(record[0])}\fR", _escape(record[1])]
    lines += [
        ".SH FILES",
        *(".TP", r"\fI/etc/gatewayd/gatewayd.toml\fR", "The station; its point lists beside it."),
        *(
            ".TP",
            r"\fI/etc/systemd/system/gatewayd.service.d/\fR",
            "Networks, serial ports and credentials of the service.",
        ),
        *(".TP", r"\fI/var/lib/gatewayd/\fR", "The journal of events and commands."),
        *(".TP", r"\fI/usr/share/doc/gatewayd/docs/operations.md\fR", "From the package to a running gateway."),
        ".SH SEE ALSO",
        ".BR systemctl (1), journalctl (1), mosquitto (8)",
    ]
    return "\n".join(lines) + "\n"


def _text(text: str) -> list[str]:
    r"""Paragraphs; those that click keeps as they are (\b) stay so."""
    lines = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.startswith("\b"):
            lines += [".nf", *(_escape(line) for line in paragraph.split("\n")[1:]), ".fi"]
        else:
            lines += [_escape(" ".join(paragraph.split()))]
        lines.append(".PP")
    return lines[:-1]


def _escape(text: str) -> str:
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return r"\&" + escaped if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.stdout.write(page(*sys.argv[1:]))
