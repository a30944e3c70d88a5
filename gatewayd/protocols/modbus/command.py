"""Commands, recipes and guards as an engineer writes them in one cell each. Pure.

    CO:7                    the coil is written: on/closed is 1, off/open is 0
    CO:7 pulse_ms=500       on for 500 ms, then off
    CO:3|CO:4 pulse_ms=500  the first opens (lowers, switches off), the second closes (raises, switches on)
    HR:50 on=2 off=1        codes in a register
    HR:120:f32              a setpoint
    recipe=select HR:200=0x5A5A > verify HR:201=1 within_ms=500 > operate CO:7 > release HR:200=0
    guard: DI:3=1 HR:10.2=0 IR:5:f32>=1.5

What they send is in `program.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from gatewayd.points.types import Kind
from gatewayd.problems import listed, shown, suggestion
from gatewayd.protocols.modbus import pdu
from gatewayd.protocols.modbus.address import NAMES, Address, AddressError, Table, number, parse_place
from gatewayd.protocols.modbus.program import Command, Given, Look, Output, Step, Target, look
from gatewayd.protocols.modbus.values import BIG_ENDIAN, Order

RECIPE = "recipe="
MOST_STEPS = 16
SHORTEST_PULSE_MS, LONGEST_PULSE_MS = 10, 60_000
LONGEST_VERIFY_MS, LONGEST_AFTER_MS = 10_000, 10_000
VERIFY_WITHIN_MS = 500
COMMAND_FORM = "CO:7, CO:7 pulse_ms=500, HR:120:u16 or recipe=… is allowed"
_FUNCTIONS = {Table.CO: (pdu.WRITE_SINGLE_COIL, pdu.WRITE_MULTIPLE_COILS),
              Table.HR: (pdu.WRITE_SINGLE_REGISTER, pdu.WRITE_MULTIPLE_REGISTERS)}  # fmt: skip


class CommandError(ValueError):
    """A cell that cannot be understood: what was found and what is allowed."""


class Word(NamedTuple):
    """`name=given`."""

    name: str
    given: str


class Defaults(NamedTuple):
    """What the device's options say for all commands. multiple: functions 15 and 16 in place of 5 and 6."""

    order: Order = BIG_ENDIAN
    multiple: bool = False


STANDARD = Defaults()


def parse_command(text: str, kind: Kind, *, readback: bool = False, defaults: Defaults = STANDARD) -> Command:
    """The cell `command`. readback: the column of that name. Raises CommandError, AddressError."""
    if text.startswith(RECIPE):
        return _recipe(text[len(RECIPE) :], kind, readback=readback, defaults=defaults)
    place, *words = text.split() or [""]
    output = _output(place, _words(words), kind, readback=readback, defaults=defaults)
    return Command(output)


def _words(texts: Sequence[str]) -> list[Word]:
    words: list[Word] = []
    for text in texts:
        name, equals, given = text.partition("=")
        if not equals or not given:
            raise CommandError(f"found {shown(text)}; a word is written name=value, as in pulse_ms=500")
        if name in (word.name for word in words):
            raise CommandError(f"found {name}= twice; once is allowed")
        words.append(Word(name.lower(), given))
    return words


def _allowed(words: Sequence[Word], *allowed: str) -> dict[str, str]:
    for word in words:
        if word.name not in allowed:
            hint = suggestion(word.name, allowed)
            raise CommandError(f"found {shown(word.name)}; {listed(f'{name}=' for name in allowed)} is allowed{hint}")
    return dict(words)


def _output(
    place: str,
    words: Sequence[Word],
    kind: Kind,
    *,
    readback: bool,
    defaults: Defaults,
    in_recipe: bool = False,
) -> Output:
    allowed = ("fc", "on", "off", "readback") if in_recipe else ("fc", "on", "off", "readback", "pulse_ms")
    given = _allowed(words, *allowed)
    places = place.split("|")
    if len(places) > 2 or places in (["-"], ["-", "-"]) or not all(places):
        raise CommandError(f"found {shown(place)}; one target is allowed, or two as in CO:3|CO:4 (opens|closes)")
    targets = tuple(
        None if part == "-" else _target(part, given, readback=readback, defaults=defaults) for part in places
    )
    first = next(target for target in targets if target)
    pulse = _milliseconds("pulse_ms", given, SHORTEST_PULSE_MS, LONGEST_PULSE_MS, 0)
    codes = _codes(targets, given, kind)
    if any(target and target.address.table is not first.address.table for target in targets):
        raise CommandError(f"found {shown(place)}; both are coils or both are registers")
    if len(targets) == 2 and targets[0] and targets[1] and targets[0].address.overlaps(targets[1].address):
        raise CommandError(f"found {shown(place)}; the two must differ")
    _check_kind(first.address, codes, kind, paired=len(targets) == 2)
    if pulse and codes is None:
        raise CommandError("found pulse_ms= with a setpoint; only what is switched on and off can be pulsed")
    return Output(targets, codes, pulse)


def _target(text: str, given: dict[str, str], *, readback: bool, defaults: Defaults) -> Target:
    address = parse_place(text, defaults.order)
    table = address.table
    if not table.writable:
        raise CommandError(f"found {shown(text)}; {NAMES[table]}s cannot be written, coils and holding registers can")
    if address.bits is not None:
        raise CommandError(
            f"found {shown(text)}; a bit cannot be written without its neighbours, a coil or a whole register can"
        )
    single, several = _FUNCTIONS[table]
    multiple = defaults.multiple or address.size > 1
    if "fc" in given:
        if given["fc"] not in (str(single), str(several)):
            raise CommandError(f"found fc={given['fc'][:20]}; {single} or {several} writes a {NAMES[table]}")
        multiple = given["fc"] == str(several)
        if not multiple and address.size > 1:
            raise CommandError(f"found fc={single} for {address.size} registers; {several} writes more than one")
    if address.size > pdu.MOST_REGISTERS_WRITTEN:
        raise CommandError(f"found {address.size} registers; one write has {pdu.MOST_REGISTERS_WRITTEN} at most")
    if given.get("readback", "yes") not in ("yes", "no"):
        raise CommandError(f"found readback={given['readback'][:20]}; yes or no is allowed")
    if readback and given.get("readback") == "no":
        raise CommandError("found readback=no here and yes in the column readback; one of them")
    wanted = given.get("readback", "yes" if readback or multiple else "no") == "yes"
    return Target(address, multiple, wanted)


def _codes(targets: Sequence[Target | None], given: dict[str, str], kind: Kind) -> tuple[float, float] | None:
    """What is written for off and on; None for a setpoint."""
    first = next(target for target in targets if target).address
    if first.type is None:
        if "on" in given or "off" in given:
            raise CommandError("found on= or off= with a coil, which is written 1 and 0; they are for registers")
        return 0, 1
    if len(targets) == 1 and kind not in (Kind.BINARY, Kind.DOUBLE) and not ("on" in given or "off" in given):
        return None
    if not first.type.is_whole:
        raise CommandError(f"found {first} for a command with two states; u16 to i64 are allowed")
    on = number(given.get("on", "1"), first.type)
    off = number(given.get("off", "0"), first.type)
    if on == off:
        raise CommandError(f"found {on:g} for both on and off; they must differ")
    return off, on


def _check_kind(address: Address, codes: tuple[float, float] | None, kind: Kind, *, paired: bool) -> None:
    two_state = kind in (Kind.BINARY, Kind.DOUBLE)
    if codes is None:
        assert address.type is not None
        if (kind is Kind.STRING) != address.type.is_text:
            raise CommandError(f"found {address} for kind {kind}; a number takes u16 to f64, a string strN")
        if kind in (Kind.ENUM, Kind.COUNTER) and not address.type.is_whole:
            raise CommandError(f"found {address} for kind {kind}; u16 to i64 are allowed")
    elif kind is Kind.STRING:
        raise CommandError(f"found {address} for kind string; a text in holding registers is allowed (HR:40:str8)")
    elif not two_state and address.type is None and not paired:
        raise CommandError(f"found {address} for kind {kind}; a coil commands binary and double, two of them a step")


def _milliseconds(name: str, given: dict[str, str], low: int, high: int, default: int) -> float:
    """Seconds of a word in milliseconds."""
    if name not in given:
        return default / 1000
    text = given[name]
    if not re.fullmatch("[0-9]{1,6}", text) or not low <= int(text) <= high:
        raise CommandError(f"found {name}={text[:20]}; {low} to {high} is allowed")
    return int(text) / 1000


# ---- recipes

VERBS = ("select", "verify", "operate", "release")
_RECIPE_FORM = (
    "a recipe is select … > verify … > operate … > release …, as in"
    " recipe=select HR:200=0x5A5A > verify HR:201=1 > operate CO:7 > release HR:200=0"
)


def _recipe(text: str, kind: Kind, *, readback: bool, defaults: Defaults) -> Command:
    steps: list[Step] = []
    output: Output | None = None
    texts = [part.strip() for part in text.split(">")]
    if len(texts) > MOST_STEPS:
        raise CommandError(f"found {len(texts)} steps; {MOST_STEPS} at most are allowed")
    for part in texts:
        verb, *rest = part.split() or [""]
        verb = verb.lower()
        if verb not in VERBS or not rest:
            raise CommandError(f"found {shown(part)}; {_RECIPE_FORM}{suggestion(verb, VERBS)}")
        if verb == "operate":
            if output is not None:
                raise CommandError("found operate twice; a recipe operates once")
            output = _operate(rest, kind, readback=readback, defaults=defaults)
        elif (verb == "release") != (output is not None):
            raise CommandError(f"found {shown(part)} {'after' if output else 'before'} operate; {_RECIPE_FORM}")
        else:
            steps.append(_step(verb, rest, defaults))
    if output is None:
        raise CommandError(f"found no operate; {_RECIPE_FORM}")
    if not any(step.verb == "select" for step in steps):
        raise CommandError("found no select; without one the operate alone is the command, without recipe=")
    return Command(output, steps=tuple(steps))


def _operate(rest: Sequence[str], kind: Kind, *, readback: bool, defaults: Defaults) -> Output:
    place, equals, given = rest[0].partition("=")
    words = _words(rest[1:])
    output = _output(place, words, kind, readback=readback, defaults=defaults, in_recipe=True)
    if not equals or given == "value":
        return output
    if output.codes is None or len(output.targets) == 2 or any(word.name in ("on", "off") for word in words):
        raise CommandError(f"found {shown(rest[0])}; operate carries the command's own value, or on= and off=")
    target = output.targets[0]
    assert target is not None
    values = _given(given, target.address).values
    if len(values) != 2:
        raise CommandError(f"found {shown(rest[0])}; both are needed, as in =1|2 (open|closed, off|on)")
    return Output(output.targets, (values[0], values[1]))


def _step(verb: str, rest: Sequence[str], defaults: Defaults) -> Step:
    place, equals, value = rest[0].partition("=")
    if not equals:
        raise CommandError(f"found {shown(' '.join((verb, *rest)))}; its value is needed, as in HR:200=1")
    words = _words(rest[1:])
    if verb == "verify":
        address = parse_place(place, defaults.order)
        if address.type is not None and address.type.is_text:
            raise CommandError(f"found {shown(place)}; a number or a bit is verified, not a text")
        seconds = _milliseconds("within_ms", _allowed(words, "within_ms"), 1, LONGEST_VERIFY_MS, VERIFY_WITHIN_MS)
        return Step(verb, None, address, _given(value, address), seconds)
    given = _allowed(words, "fc", "readback") if verb == "select" else _allowed(words, "fc", "readback", "after_ms")
    target = _target(place, given, readback=False, defaults=defaults)
    seconds = _milliseconds("after_ms", given, 0, LONGEST_AFTER_MS, 0)
    return Step(verb, target, target.address, _given(value, target.address), seconds)


def _given(text: str, address: Address) -> Given:
    """`0x5A5A`, `1|2`, `value`."""
    if text == "value":
        return Given()
    parts = text.split("|")
    if len(parts) > 2:
        raise CommandError(f"found {shown(text)}; a number, two as in 1|2 (open|closed) or value is allowed")
    return Given(tuple(_constant(part, address) for part in parts))


def _constant(text: str, address: Address) -> float:
    """A number that fits the address: 0 or 1 for coils, contacts and bits."""
    if address.type is None or address.bits is not None:
        width = address.bits[1] - address.bits[0] + 1 if address.bits else 1
        if not re.fullmatch("0[xX][0-9a-fA-F]{1,4}|[0-9]{1,5}", text) or int(text, 0) >> width:
            raise CommandError(f"found {shown(text)} for {address}; 0 to {(1 << width) - 1} is allowed")
        return int(text, 0)
    return number(text, address.type)


# ---- guards

_GUARD = re.compile(r"(?P<place>[A-Za-z0-9:.-]+?)\s*(?P<operator>!=|<=|>=|=|<|>)\s*(?P<value>[-+.0-9A-Za-z]+)")
_BETWEEN = re.compile(r"\s*(?:,|&|\band\b)?\s*")
GUARD_FORM = "conditions such as DI:3=1 HR:10.2=0 IR:5:f32>=1.5 are allowed; all of them must hold"


def parse_guard(text: str, order: Order = BIG_ENDIAN) -> tuple[Look, ...]:
    """The cell `guard`. Raises CommandError, AddressError."""
    looks: list[Look] = []
    at = 0
    while at < len(text):
        if looks:
            between = _BETWEEN.match(text, at)
            assert between is not None
            at = between.end()
        match = _GUARD.match(text, at)
        if match is None or len(looks) >= MOST_STEPS:
            raise CommandError(f"found {shown(text[at:] or text)}; {GUARD_FORM} ({MOST_STEPS} at most)")
        address = parse_place(match["place"], order)
        if address.type is not None and address.type.is_text:
            raise CommandError(f"found {shown(match['place'])}; a number or a bit is compared, not a text")
        looks.append(look(address, match["operator"], _constant(match["value"], address)))
        at = match.end()
    return tuple(looks)


__all__ = ["AddressError", "Command", "CommandError", "parse_command", "parse_guard"]
