"""The `[control]` table: time limits, rates, and who may. Imports nothing heavy."""

from __future__ import annotations

import msgspec


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[control]` of the configuration. All times in seconds, on the monotonic clock unless said otherwise.

    request_window_s:      `expires_at` may lie this far ahead at most (UTC)
    select_timeout_s:      how long a select lives, for points that do not say otherwise
    device_timeout_s:      how long a device may take to answer a select, an operate or a cancel
    send_within_s:         a command that a driver could not put on the wire in this time is not sent any more
    termination_timeout_s: how long CommandTermination may take (IEC 61850 enhanced security)
    feedback_timeout_s:    how long the field may take to show the target, for points that do not say otherwise
    hold_s:                how long a point is held after an outcome that is not sure
    stop_budget_s:         how long a shutdown waits for commands under way
    selects_per_operator:  selects one operator may hold at the same time
    rate_per_s, rate_burst: requests per operator: so many a second, so many at once
    refusals_per_s, refusals_burst: refusals per operator that are recorded one by one; past it they are only counted
    in_position:           `refuse` a command to where the switch already is, or `allow` it
    rights_file:           operators, roles, areas and keys; without one every operator the broker lets in may control
    require_signature:     every request must carry an Ed25519 signature of its operator
    audit_records:         audit records kept at most (and never more than a quarter of the journal)
    """

    request_window_s: float = 60.0
    select_timeout_s: float = 30.0
    device_timeout_s: float = 5.0
    send_within_s: float = 1.0
    termination_timeout_s: float = 30.0
    feedback_timeout_s: float = 10.0
    hold_s: float = 10.0
    stop_budget_s: float = 10.0
    selects_per_operator: int = 4
    rate_per_s: float = 5.0
    rate_burst: int = 20
    refusals_per_s: float = 2.0
    refusals_burst: int = 20
    in_position: str = "refuse"
    rights_file: str = ""
    require_signature: bool = False
    audit_records: int = 100_000


_LIMITS: dict[str, tuple[float, float]] = {
    "request_window_s": (1, 3600),
    "select_timeout_s": (2, 120),
    "device_timeout_s": (0.2, 120),
    "send_within_s": (0.05, 60),
    "termination_timeout_s": (1, 600),
    "feedback_timeout_s": (0.2, 600),
    "hold_s": (0, 3600),
    "stop_budget_s": (0, 60),
    "selects_per_operator": (1, 1000),
    "rate_per_s": (0.1, 10_000),
    "rate_burst": (1, 10_000),
    "refusals_per_s": (0.1, 10_000),
    "refusals_burst": (1, 10_000),
    "audit_records": (2048, 10_000_000),
}


def check(settings: ControlSettings) -> list[tuple[str, str]]:
    """Every mistake in the table as (key, what was found; what is allowed). Opens nothing."""
    found: list[tuple[str, str]] = []
    for key, (low, high) in _LIMITS.items():
        value = getattr(settings, key)
        if not low <= value <= high:
            found.append((key, f"found {value:g}; {low:g} to {high:g} is allowed"))
    if settings.send_within_s > settings.device_timeout_s:
        limit = f"at most device_timeout_s ({settings.device_timeout_s:g}) is allowed"
        why = "so that nothing is sent after its outcome was given as unknown"
        found.append(("send_within_s", f"found {settings.send_within_s:g}; {limit}, {why}"))
    if settings.in_position not in ("refuse", "allow"):
        found.append(("in_position", f'found "{settings.in_position}"; "refuse" or "allow" is allowed'))
    if settings.require_signature and not settings.rights_file:
        found.append(("require_signature", "found true without rights_file; the operators' keys stand in that file"))
    return found
