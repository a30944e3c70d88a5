"""`gatewayd explain POINT`: why a point has the quality it has."""

from __future__ import annotations

import json
import sys
from typing import Any

from gatewayd.console.ask import NoAnswer, ask
from gatewayd.mqtt.settings import MqttSettings
from gatewayd.problems import printable

_USABLE = {True: "yes: interlocks and feedback may rely on it", False: "no: it permits and proves nothing"}
OK, NOT_USABLE, NO_SUCH_POINT, NO_ANSWER = 0, 1, 2, 3


async def explain(settings: MqttSettings, point: str, *, as_json: bool, wait_s: float) -> int:
    """Print the explanation. Returns 0 usable, 1 not usable, 2 no such point, 3 no answer."""
    try:
        _, found = await ask(settings, {"ask": "explain", "point": point}, wait_s)
    except NoAnswer as error:
        print(f"gatewayd explain: {error}", file=sys.stderr)
        return NO_ANSWER
    if "bad" in found:
        print(f"gatewayd explain: {printable(str(found['bad']))}", file=sys.stderr)
        return NO_SUCH_POINT
    if as_json:
        print(json.dumps(found))
    else:
        for line in lines(found):
            print(printable(line))
    return OK if found.get("usable") else NOT_USABLE


def lines(found: dict[str, Any]) -> list[str]:
    """The explanation for people, a line a fact."""
    flags = f" ({', '.join(found['flags'])})" if found["flags"] else ""
    out = [
        f"{found['point']} = {json.dumps(found['value'])}, {found['quality']}{flags}",
        f"  usable       {_USABLE[bool(found['usable'])]}",
        f"  time         {found['t']} by the {found['t_src']}'s clock, received {found['t_recv']}",
        f"  read from    {found['device']}, {found['address'] or 'two contacts'}, raw {json.dumps(found['raw'])}",
    ]
    out += [f"  because      {reason}" for reason in found["reasons"]]
    if "since" in found:
        out.append(f"  since        {found['since']}")
    if last := found.get("last_good"):
        out.append(f"  last good    {json.dumps(last['value'])} at {last['t']}")
    if native := found.get("native"):
        out.append(f"  device says  {', '.join(native['names'])} ({native['bits']})")
    if link := found.get("link"):
        cause = f": {link['cause']}" if link["cause"] else ""
        out.append(f"  link         {link['link']} since {link['since']}{cause}")
    if "clock_offset_s" in found:
        out.append(f"  its clock    {found['clock_offset_s']:+.3f} s behind the gateway's")
    for one in found.get("inputs", ()):
        native = f" (device says {', '.join(one['native'])})" if "native" in one else ""
        out += [f"  made of      {one['point']} = {json.dumps(one['value'])}, {one['quality']}{native}"]
    return out
