"""The closed list of reasons. Every answer to a command carries one of them and its effect.

Source: docs/control.md (the table) ; effect is what may have happened in the field.
"""

from __future__ import annotations

from enum import StrEnum


class Effect(StrEnum):
    """What the command did in the field as far as the gateway can know."""

    NONE = "none"
    POSSIBLE = "possible"
    CONFIRMED = "confirmed"


class Reason(StrEnum):
    """Why a request ended as it did; kebab-case, the same words for every protocol."""

    OK = "ok"
    ACCEPTED_UNSUPERVISED = "accepted-unsupervised"
    ALREADY_IN_POSITION = "already-in-position"
    BAD_REQUEST = "bad-request"
    UNSUPPORTED = "unsupported"
    UNKNOWN_POINT = "unknown-point"
    OUT_OF_RANGE = "out-of-range"
    RETAINED = "retained"
    EXPIRED = "expired"
    REPLAY = "replay"
    CLOCK_UNSURE = "clock-unsure"
    NOT_AUTHORISED = "not-authorised"
    NOT_SELECTED = "not-selected"
    SELECT_EXPIRED = "select-expired"
    MISMATCH = "mismatch"
    SELECTED_BY_YOU = "selected-by-you"
    SELECTED_BY_OTHER = "selected-by-other"
    BUSY = "busy"
    RATE_LIMITED = "rate-limited"
    DEVICE_BUSY = "device-busy"
    NOT_ACTIVE = "not-active"
    INHIBITED = "inhibited"
    TAGGED = "tagged"
    LOCAL = "local"
    BLOCKED_MODE = "blocked-mode"
    BLOCKED_HIERARCHY = "blocked-hierarchy"
    INTERLOCKED = "interlocked"
    SYNCHROCHECK = "synchrocheck"
    BLOCKED_PROCESS = "blocked-process"
    BLOCKED_HEALTH = "blocked-health"
    POSITION_UNKNOWN = "position-unknown"
    DEVICE_OFFLINE = "device-offline"
    DEVICE_NO_ANSWER = "device-no-answer"
    DEVICE_UNSELECTED = "device-unselected"
    DEVICE_REJECTED = "device-rejected"
    LOCKED_BY_OTHER_CLIENT = "locked-by-other-client"
    DOWNSTREAM_LOCAL = "downstream-local"
    DOWNSTREAM_FAILED = "downstream-failed"
    CANCELLED = "cancelled"
    ABORTED_RESTART = "aborted-restart"
    ABORTED_SHUTDOWN = "aborted-shutdown"
    ABORTED_RELOAD = "aborted-reload"
    ABORTED_FAILOVER = "aborted-failover"
    UNKNOWN = "unknown"
    FEEDBACK_TIMEOUT = "feedback-timeout"
    WRONG_POSITION = "wrong-position"
    OVERSHOOT = "overshoot"
    DEVIATION = "deviation"
    ABORTED_BY_TRIP = "aborted-by-trip"
    STOPPED = "stopped"
