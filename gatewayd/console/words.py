"""The reasons and effects of commands in words for the person at the console. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gatewayd.control.reasons import Effect, Reason

REASONS: dict[Reason, str] = {
    Reason.OK: "carried out, and seen in the field",
    Reason.ACCEPTED_UNSUPERVISED: "the device accepted it; there is no feedback that could prove it",
    Reason.ALREADY_IN_POSITION: "it is already there",
    Reason.BAD_REQUEST: "the request was not understood",
    Reason.UNSUPPORTED: "this point or device does not take such a command",
    Reason.UNKNOWN_POINT: "the gateway has no such point",
    Reason.OUT_OF_RANGE: "the value is outside the limits of the point",
    Reason.RETAINED: "a stored message is never obeyed",
    Reason.EXPIRED: "the request came too late; compare the clocks of this machine and the gateway",
    Reason.REPLAY: "this request was used before",
    Reason.CLOCK_UNSURE: "the gateway's clock is not synchronised, so it cannot know how old a request is",
    Reason.NOT_AUTHORISED: "you may not do this",
    Reason.NOT_SELECTED: "nothing is selected: select first",
    Reason.SELECT_EXPIRED: "the select has run out: select again",
    Reason.MISMATCH: "this is not what was selected",
    Reason.SELECTED_BY_YOU: "you have already selected something here",
    Reason.SELECTED_BY_OTHER: "somebody else has selected something here",
    Reason.BUSY: "another command is on its way here, or its outcome is uncertain",
    Reason.RATE_LIMITED: "too many requests: wait a moment",
    Reason.DEVICE_BUSY: "the device is busy with something else",
    Reason.NOT_ACTIVE: "this gateway is on standby, or not sure that it is the active one",
    Reason.INHIBITED: "control is inhibited here",
    Reason.TAGGED: "a tag forbids it",
    Reason.LOCAL: "the switch stands on Local: control has been taken over on site",
    Reason.BLOCKED_MODE: "the device's mode forbids it (test, blocked or off)",
    Reason.BLOCKED_HIERARCHY: "another control level has the right to operate",
    Reason.INTERLOCKED: "the interlock does not allow it, or one of its inputs is not known for sure",
    Reason.SYNCHROCHECK: "the synchrocheck does not allow it",
    Reason.BLOCKED_PROCESS: "the process does not allow it",
    Reason.BLOCKED_HEALTH: "the device reports itself as faulty",
    Reason.POSITION_UNKNOWN: "the present position is not known for sure",
    Reason.DEVICE_OFFLINE: "the device is not connected",
    Reason.DEVICE_NO_ANSWER: "the device did not answer to the select",
    Reason.DEVICE_UNSELECTED: "the device dropped the select by itself",
    Reason.DEVICE_REJECTED: "the device refused it without a better word",
    Reason.LOCKED_BY_OTHER_CLIENT: "another master or client holds it at the device",
    Reason.DOWNSTREAM_LOCAL: "beyond the device somebody has switched to Local",
    Reason.DOWNSTREAM_FAILED: "it failed beyond the device",
    Reason.CANCELLED: "cancelled",
    Reason.ABORTED_RESTART: "ended by a restart of the gateway, before anything was sent",
    Reason.ABORTED_SHUTDOWN: "ended because the gateway was stopped, before anything was sent",
    Reason.ABORTED_RELOAD: "ended by a new configuration, before anything was sent",
    Reason.ABORTED_FAILOVER: "ended because the other gateway took over, before anything was sent",
    Reason.UNKNOWN: "nobody knows whether it was carried out",
    Reason.FEEDBACK_TIMEOUT: "sent, but the feedback did not show the new position in time",
    Reason.WRONG_POSITION: "sent, but the feedback shows another position",
    Reason.OVERSHOOT: "sent, but it went beyond the target",
    Reason.DEVIATION: "sent, but the value stays away from the target",
    Reason.ABORTED_BY_TRIP: "sent, then a trip came in between",
    Reason.STOPPED: "sent, then stopped on the way",
}

EFFECTS: dict[Effect, str] = {
    Effect.NONE: "nothing has moved",
    Effect.POSSIBLE: "IT MAY HAVE MOVED: look at the position before you try again",
    Effect.CONFIRMED: "the field shows it",
}


def tag_text(tag: Mapping[str, Any]) -> str:
    """A tag or inhibit as it hangs: `personal-lock 3f9a on bay/F12 by alice since …: earthing at DS`."""
    note = f": {tag['note']}" if tag.get("note") else ""
    since = f" since {str(tag['time'])[:19]}Z" if tag.get("time") else ""
    return f"{tag.get('kind')} {tag.get('id')} on {tag.get('on')} by {tag.get('owner')}{since}{note}"


def reason_text(reason: str) -> str:
    """A reason in words, with its name; a name that is not known stands for itself."""
    try:
        return f"{REASONS[Reason(reason)]} ({reason})"
    except ValueError:
        return reason


def effect_text(effect: str) -> str:
    """An effect in words."""
    try:
        return EFFECTS[Effect(effect)]
    except ValueError:
        return effect
