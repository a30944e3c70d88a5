"""Commands through the whole desk, case by case; the ids are those of the specification (N nominal, R race)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gatewayd.control.reasons import Effect, Reason
from gatewayd.control.types import Native, Reply, Result, Step, StepKind, Verdict
from gatewayd.points import quality as q
from gatewayd.points.types import Link, PointSpec, Value
from tests.control.support import (
    AR,
    BAY,
    BAY_DS,
    CB,
    DS,
    HORN,
    LAMP,
    LOCAL,
    METER,
    MODE,
    SETP,
    TAP,
    Room,
    S,
    moves,
    refused,
    results,
    until,
)  # fmt: skip


async def test_n1_select_operate_feedback_ok_with_everything_on_record(room: Room) -> None:
    selected = await room.select()
    assert (selected.result, selected.reason, selected.effect) == (Result.SELECTED, Reason.OK, Effect.NONE)
    assert len(selected.select_id) == 32
    assert selected.valid_for_s == 30.0
    assert room.field.calls == []
    tx = await room.operated(selected)
    assert results(room.of(tx)) == ["accepted ok"]
    room.show(CB, "intermediate")
    room.show(CB, "open")
    done = await room.end(tx)
    assert (done.reason, done.effect, done.value) == (Reason.OK, Effect.CONFIRMED, "open")
    assert results(room.of(tx)) == ["accepted ok", "done ok"]  # N18
    assert results(room.of(selected.tx)) == ["selected ok"]  # it ends with its operate
    [call] = room.field.calls
    assert (call.verb, call.control.value, call.control.sbo, call.control.operator) == ("operate", False, True, "alice")
    assert call.control.not_after_ns == room.mono - 2 + S  # received at mono, moved twice since
    assert await room.words(selected.tx) == ["select", "selected"]
    assert await room.words(tx) == ["intent", "sent", "accepted", "outcome"]
    [event] = await room.events()
    assert (event["tx"], event["reason"], event["effect"], event["operator"]) == (tx, "ok", "confirmed", "alice")
    assert "select_id" not in event


@pytest.mark.parametrize(
    ("point", "value", "raw", "shown"),
    [
        (AR, "off", False, False),
        (AR, False, False, False),
        (TAP, "raise", True, 8),
        (TAP, "lower", False, 6),
        (MODE, "night", 2, "night"),
        (CB, "trip", False, "open"),
    ],
)
async def test_n2_n3_each_kind_of_point(room: Room, point: str, value: Value, raw: Value, shown: Value) -> None:
    selected = await room.select(point, value)
    tx = await room.operated(selected)
    assert room.field.calls[-1].control.value is raw or room.field.calls[-1].control.value == raw
    room.show(point, shown)
    assert (await room.end(tx)).reason is Reason.OK


async def test_n7_n9_a_select_is_held_at_the_device_and_cancelled_there(room: Room) -> None:
    room.field.replies["select"] = Reply(Verdict.DONE, valid_for_s=10.0)
    selected = await room.select(BAY)
    assert selected.valid_for_s == 9.0  # 0.9 of sboTimeout
    assert room.field.verbs == ["select"]
    cancelled = await room.done("cancel", select_id=selected.select_id)
    assert (cancelled.reason, cancelled.effect, cancelled.stage) == (Reason.CANCELLED, Effect.NONE, "cancel")
    assert (await room.end(selected.tx)).reason is Reason.CANCELLED
    assert room.field.verbs == ["select", "cancel"]
    assert room.field.calls[0].control.id == room.field.calls[1].control.id == f"alice/{selected.tx}"
    again = await room.select(BAY)
    assert again.result is Result.SELECTED


async def test_n6_enhanced_security_needs_termination_and_position(room: Room) -> None:
    room.field.replies["operate"] = Reply(Verdict.DONE, termination=True)
    selected = await room.select(BAY)
    tx = await room.operated(selected)
    room.show(BAY, "open")
    await room.quiet()
    assert room.ends(tx) == []
    room.desk.progress(f"alice/{tx}", Step(StepKind.TERMINATED))
    assert (await room.end(tx)).reason is Reason.OK


async def test_n12_a_direct_point_needs_no_select_and_may_have_one(room: Room) -> None:
    tx = await room.ask("direct", point=SETP, value=70)
    await until(lambda: room.of(tx), "accepted")
    room.show(SETP, 69.7)
    done = await room.end(tx)
    assert (done.reason, done.effect, done.stage) == (Reason.OK, Effect.CONFIRMED, "direct")
    assert room.field.calls[0].control.sbo is False
    assert await room.words(tx) == ["intent", "sent", "accepted", "outcome"]
    selected = await room.select(METER, False)
    tx = await room.operated(selected)
    room.show(METER, False)
    assert (await room.end(tx)).reason is Reason.OK


async def test_n12_a_point_that_wants_a_select_takes_nothing_direct(room: Room) -> None:
    refused_ = await room.done("direct", point=CB, value="open")
    assert (refused_.reason, refused_.effect) == (Reason.UNSUPPORTED, Effect.NONE)
    assert room.field.calls == []


@pytest.mark.case("N13")
async def test_n13_already_in_position(room: Room) -> None:
    refused_ = await room.select(CB, "closed")
    assert (refused_.result, refused_.reason) == (Result.DONE, Reason.ALREADY_IN_POSITION)
    await room.configure(lambda spec: spec, in_position="allow")
    selected = await room.select(CB, "closed")
    tx = await room.operated(selected)
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.ACCEPTED_UNSUPERVISED, Effect.POSSIBLE)  # nothing could prove it


async def test_n17_without_feedback_it_is_unsupervised(room: Room) -> None:
    selected = await room.select(HORN, "on")
    tx = await room.operated(selected)
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.ACCEPTED_UNSUPERVISED, Effect.POSSIBLE)
    assert results(room.of(tx)) == ["done accepted-unsupervised"]


async def test_a_refusal_of_the_device_moves_nothing_and_frees_the_point(room: Room) -> None:
    room.field.replies["operate"] = Reply(Verdict.REFUSED, Reason.LOCAL, Native("dnp3", 7, "LOCAL"))
    tx = await room.operated(await room.select())
    done = await room.end(tx)
    assert (done.reason, done.effect, done.native) == (Reason.LOCAL, Effect.NONE, Native("dnp3", 7, "LOCAL"))
    assert (await room.select()).result is Result.SELECTED


# --- races ----------------------------------------------------------------------------------------------------------


async def test_r1_s5_an_operate_without_select_is_refused(room: Room) -> None:
    done = await room.done("operate", point=CB, value="open", select_id="0" * 32)
    assert (done.reason, done.effect) == (Reason.NOT_SELECTED, Effect.NONE)
    assert room.field.calls == []


@pytest.mark.case("R2")
async def test_r2_a_select_lives_exactly_as_long_as_it_says(room: Room) -> None:
    selected = await room.select()
    await room.after(29.999)
    tx = await room.operated(selected)
    assert room.field.count("operate") == 1
    room.show(CB, "open")
    assert (await room.end(tx)).reason is Reason.OK
    selected = await room.select(CB, "closed")
    await room.after(30.0)
    assert (await room.end(selected.tx)).reason is Reason.SELECT_EXPIRED
    late = await room.end(await room.operate(selected))
    assert (late.reason, late.effect) == (Reason.SELECT_EXPIRED, Effect.NONE)
    assert room.field.count("operate") == 1


async def test_r3_of_two_operators_exactly_one_wins(room: Room) -> None:
    a = await room.ask("select", "alice", point=CB, value="open")
    b = await room.ask("select", "bob", point=CB, value="open")
    await until(lambda: room.of(a) and room.of(b), "both are answered")
    assert room.of(a)[0].result is Result.SELECTED
    assert (room.of(b)[0].result, room.of(b)[0].reason) == (Result.DONE, Reason.SELECTED_BY_OTHER)
    mine = await room.select()
    assert mine.reason is Reason.SELECTED_BY_YOU


async def test_r4_another_operators_operate_leaves_the_select_alone(room: Room) -> None:
    selected = await room.select()
    foreign = await room.end(await room.operate(selected, operator="bob"))
    assert (foreign.reason, foreign.effect) == (Reason.SELECTED_BY_OTHER, Effect.NONE)
    cancel = await room.done("cancel", "bob", select_id=selected.select_id)
    assert cancel.reason is Reason.SELECTED_BY_OTHER
    assert room.field.calls == []
    tx = await room.operated(selected)
    room.show(CB, "open")
    assert (await room.end(tx)).reason is Reason.OK


async def test_r5_an_operate_delivered_twice_is_one_write(room: Room) -> None:
    selected = await room.select()
    held = room.field.hold("operate")
    request = room.request("operate", point=CB, value="open", select_id=selected.select_id)
    await room.desk.request(request)
    await room.desk.request(request)
    await until(lambda: room.field.count("operate"), "the write")
    await room.desk.request(request)
    held.set()
    await room.quiet()
    room.show(CB, "open")
    done = await room.end(request.tx)
    await room.desk.request(request)
    assert done.reason is Reason.OK
    assert room.field.count("operate") == 1
    repeats = [one for one in room.of(request.tx) if one.duplicate]
    assert [one.result for one in repeats] == [Result.ACCEPTED, Result.ACCEPTED, Result.DONE]
    assert (repeats[-1].reason, repeats[-1].effect) == (Reason.OK, Effect.CONFIRMED)
    other = await room.end(await room.operate(selected))
    assert other.reason is Reason.REPLAY
    assert room.field.count("operate") == 1


async def test_r6_a_select_delivered_twice_gets_the_same_answer_and_one_record(room: Room) -> None:
    request = room.request("select", point=CB, value="open")
    await room.desk.request(request)
    await until(lambda: room.of(request.tx), "selected")
    await room.after(10)
    await room.desk.request(request)
    first, second = room.of(request.tx)
    assert (second.duplicate, second.select_id, second.valid_for_s) == (True, first.select_id, 20.0)
    assert await room.words(request.tx) == ["select", "selected"]


async def test_r6_after_a_restart_the_stored_outcome_is_said_again(room: Room) -> None:
    request = room.request("select", point=CB, value="open")
    await room.desk.request(request)
    await until(lambda: room.of(request.tx), "selected")
    await room.again()
    outcome = await room.end(request.tx)
    assert (outcome.reason, outcome.restart) == (Reason.ABORTED_RESTART, True)
    await room.desk.request(request)
    await until(lambda: len(room.of(request.tx)) == 2, "said again")
    repeated = room.of(request.tx)[1]
    assert (repeated.duplicate, repeated.reason) == (True, Reason.ABORTED_RESTART)
    assert room.field.calls == []


async def test_a_tx_used_for_something_else_is_a_replay(room: Room) -> None:
    selected = await room.select(tx="one")
    await room.ask("operate", tx="one", point=CB, value="open", select_id=selected.select_id)
    await until(lambda: len(room.of("one")) == 2, "refused")
    assert room.of("one")[1].reason is Reason.REPLAY
    assert "used before, for select" in room.of("one")[1].detail
    assert room.field.calls == []


async def test_r7_another_value_drops_the_select(room: Room) -> None:
    selected = await room.select()
    done = await room.end(await room.operate(selected, value="closed"))
    assert (done.reason, done.effect) == (Reason.MISMATCH, Effect.NONE)
    assert "FDR12/CB/POS -> closed; selected was FDR12/CB/POS -> open" in done.detail
    assert (await room.end(await room.operate(selected))).reason is Reason.NOT_SELECTED
    assert room.field.calls == []


async def test_r7_another_point_or_a_test_flag_is_a_mismatch_too(room: Room) -> None:
    selected = await room.select(AR, "off")
    assert (await room.end(await room.operate(selected, point=HORN))).reason is Reason.MISMATCH
    selected = await room.select(BAY, "open", test=True)
    assert (await room.end(await room.operate(selected))).reason is Reason.MISMATCH
    await room.quiet()
    assert room.field.verbs == ["select", "cancel"]


async def test_r8_of_cancel_and_operate_exactly_one_wins(room: Room) -> None:
    selected = await room.select()
    operate = await room.operate(selected)
    cancel = await room.ask("cancel", select_id=selected.select_id)
    await room.quiet()
    assert (await room.end(cancel)).reason is Reason.BUSY
    room.show(CB, "open")
    assert (await room.end(operate)).reason is Reason.OK
    selected = await room.select(CB, "closed")
    cancel = await room.ask("cancel", select_id=selected.select_id)
    operate = await room.operate(selected)
    assert (await room.end(cancel)).reason is Reason.CANCELLED
    assert (await room.end(operate)).reason is Reason.NOT_SELECTED
    assert room.field.count("operate") == 1


async def test_r9_r16_local_between_select_and_operate_ends_the_select(room: Room) -> None:
    selected = await room.select()
    room.show(LOCAL, True)
    done = await room.end(selected.tx)
    assert (done.reason, done.effect, done.detail) == (Reason.LOCAL, Effect.NONE, "FDR12/LOCAL is on")
    assert (await room.end(await room.operate(selected))).reason is Reason.NOT_SELECTED
    assert room.field.calls == []


@pytest.mark.case("R10")
async def test_r10_local_before_the_write_stops_it_and_after_it_does_not(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gatewayd import failpoint

    selected = await room.select()
    hooked: list[str] = []

    def local_now(name: str) -> None:
        if name == "control-after-intent":  # INTENT is on disk, the write comes next
            hooked.append(name)
            room.show(LOCAL, True)

    monkeypatch.setattr(failpoint, "here", local_now)
    done = await room.end(await room.operate(selected))
    assert hooked == ["control-after-intent"]
    assert (done.reason, done.effect) == (Reason.LOCAL, Effect.NONE)
    assert room.field.calls == []
    monkeypatch.setattr(failpoint, "here", lambda _: None)
    room.show(LOCAL, False)
    tx = await room.operated(await room.select())
    room.show(LOCAL, True)
    room.show(CB, "open")
    assert (await room.end(tx)).reason is Reason.OK


async def test_r11_an_interlock_input_that_goes_bad_ends_the_select(room: Room) -> None:
    selected = await room.select()
    room.show(DS, "closed", q.QUESTIONABLE | q.OLD_DATA)
    done = await room.end(selected.tx)
    assert done.reason is Reason.INTERLOCKED
    assert "FDR12/DS/POS is closed, questionable (old-data)" in done.detail


async def test_r12_feedback_before_the_devices_reply_counts(room: Room) -> None:
    room.field.on_operate = moves(room, "intermediate", "open")
    tx = await room.operated(await room.select())
    assert (await room.end(tx)).reason is Reason.OK
    assert results(room.of(tx)) == ["accepted ok", "done ok"]


@pytest.mark.case("R13")
async def test_r13_feedback_of_an_older_operation_proves_nothing(room: Room) -> None:
    tx = await room.operated(await room.select())
    room.show(CB, "open", time_ns=room.now - 2 * S)
    await room.quiet()
    assert room.ends(tx) == []
    room.show(CB, "open", q.SYNC_NO, time_ns=room.now - 3600 * S)  # a clock that is not in step says nothing
    assert (await room.end(tx)).reason is Reason.OK


async def test_r13_a_sample_received_before_the_write_proves_nothing(room: Room) -> None:
    before = room.mono
    tx = await room.operated(await room.select())
    room.show(CB, "open", mono=before)
    await room.quiet()
    assert room.ends(tx) == []
    await room.after(10)
    assert (await room.end(tx)).reason is Reason.FEEDBACK_TIMEOUT


@pytest.mark.case("R14")
@pytest.mark.parametrize("quality", [q.SUBSTITUTED, q.TEST, q.QUESTIONABLE, q.INVALID, q.BLOCKED])
async def test_r14_feedback_that_is_not_good_proves_nothing(room: Room, quality: int) -> None:
    tx = await room.operated(await room.select())
    room.show(CB, "open", quality)
    await room.quiet()
    assert room.ends(tx) == []
    await room.after(10)
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.FEEDBACK_TIMEOUT, Effect.POSSIBLE)


async def test_r15_intermediate_then_bad_then_target(room: Room) -> None:
    tx = await room.operated(await room.select())
    for value in ("intermediate", "bad", "intermediate"):
        room.show(CB, value)
    await room.quiet()
    assert room.ends(tx) == []
    room.show(CB, "open")
    assert (await room.end(tx)).reason is Reason.OK


async def test_back_where_it_was_after_movement_is_the_wrong_position(room: Room) -> None:
    tx = await room.operated(await room.select())
    room.show(CB, "closed")  # the old position once more is no movement
    await room.quiet()
    assert room.ends(tx) == []
    room.show(CB, "intermediate")
    room.show(CB, "closed")
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.WRONG_POSITION, Effect.POSSIBLE)
    assert (await room.select()).reason is Reason.BUSY
    room.show(CB, "open")
    await room.quiet()
    [late] = room.late(tx)
    assert (late.reason, late.effect) == (Reason.OK, Effect.CONFIRMED)


async def test_r16_r17_termination_without_position_and_position_without_termination(room: Room) -> None:
    room.field.replies["operate"] = Reply(Verdict.DONE, termination=True)
    tx = await room.operated(await room.select(BAY))
    room.desk.progress(f"alice/{tx}", Step(StepKind.TERMINATED))
    await room.after(10)
    assert (await room.end(tx)).reason is Reason.FEEDBACK_TIMEOUT
    await room.after(10)
    tx = await room.operated(await room.select(BAY))
    room.show(BAY, "open")
    await room.after(29)
    assert room.ends(tx) == []
    await room.after(1)
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.FEEDBACK_TIMEOUT, Effect.POSSIBLE)
    assert "CommandTermination did not" in done.detail
    room.desk.progress(f"alice/{tx}", Step(StepKind.TERMINATED))
    await room.quiet()
    assert [(one.reason, one.effect) for one in room.late(tx)] == [(Reason.OK, Effect.CONFIRMED)]


async def test_a_negative_termination_may_have_moved(room: Room) -> None:
    room.field.replies["operate"] = Reply(Verdict.DONE, termination=True)
    tx = await room.operated(await room.select(BAY))
    native = Native("iec61850", 17, "abortion-by-trip")
    room.desk.progress(f"alice/{tx}", Step(StepKind.TERMINATED_NEGATIVE, Reason.ABORTED_BY_TRIP, native))
    done = await room.end(tx)
    assert (done.reason, done.effect, done.native) == (Reason.ABORTED_BY_TRIP, Effect.POSSIBLE, native)


async def test_r18_a_late_reply_is_told_and_rewrites_nothing(room: Room) -> None:
    held = room.field.hold("operate")
    tx = await room.operate(await room.select())
    await until(lambda: room.field.count("operate"), "the write")
    await room.after(5)
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.UNKNOWN, Effect.POSSIBLE)
    assert (await room.select()).reason is Reason.BUSY
    held.set()
    await room.quiet()
    room.show(CB, "open")
    await room.quiet()
    assert [(one.result, one.reason, one.effect) for one in room.late(tx)] == [
        (Result.ACCEPTED, Reason.OK, Effect.POSSIBLE),
        (Result.DONE, Reason.OK, Effect.CONFIRMED),
    ]
    assert room.field.count("operate") == 1
    assert [event["reason"] for event in await room.events()] == ["unknown", "ok", "ok"]
    assert [event.get("late", False) for event in await room.events()] == [False, True, True]
    assert (await room.select(CB, "closed")).result is Result.SELECTED


async def test_r18_a_late_refusal_ends_the_hold(room: Room) -> None:
    held = room.field.hold("operate")
    room.field.replies["operate"] = refused(Reason.DEVICE_BUSY)
    tx = await room.operate(await room.select())
    await until(lambda: room.field.count("operate"), "the write")
    await room.after(5)
    assert (await room.end(tx)).reason is Reason.UNKNOWN
    held.set()
    await room.quiet()
    assert [(one.reason, one.effect) for one in room.late(tx)] == [(Reason.DEVICE_BUSY, Effect.NONE)]
    assert (await room.select()).result is Result.SELECTED


async def test_f6_a_lost_reply_is_unknown_and_the_field_has_the_last_word(room: Room) -> None:
    room.field.on_operate = moves(room, "open")
    room.field.replies["operate"] = Reply(Verdict.UNKNOWN, Reason.UNKNOWN)
    tx = await room.operated(await room.select())
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.UNKNOWN, Effect.POSSIBLE)
    assert [(one.reason, one.effect) for one in room.late(tx)] == [(Reason.OK, Effect.CONFIRMED)]
    assert room.field.count("operate") == 1


async def test_r21_one_of_n_in_the_bay_and_at_the_device(room: Room) -> None:
    assert (await room.select(CB)).result is Result.SELECTED
    sister = await room.select(AR, "off", "bob")
    assert (sister.reason, "FDR12/CB/POS is selected by alice" in sister.detail) == (Reason.SELECTED_BY_OTHER, True)
    assert (await room.select(AR, "off")).reason is Reason.SELECTED_BY_YOU
    assert (await room.select(HORN, "on", "bob")).result is Result.SELECTED  # no bay
    assert (await room.select(BAY, "open", "bob")).result is Result.SELECTED
    assert (await room.select(BAY_DS, "open")).reason is Reason.SELECTED_BY_OTHER  # its own lock reaches as far


async def test_r22_a_reload_that_takes_the_point_ends_its_select_and_no_other(room: Room) -> None:
    gone, changed, kept = await room.select(AR, "off"), await room.select(LAMP, "on"), await room.select(TAP, "raise")
    tx = await room.operated(await room.select(HORN, "on"))

    def change(spec: PointSpec) -> PointSpec | None:
        if spec.name == LAMP:
            return replace(spec, select_timeout_s=31.0)
        return None if spec.name == AR else spec

    await room.configure(change)
    assert (await room.end(gone.tx)).reason is Reason.ABORTED_RELOAD
    assert (await room.end(changed.tx)).reason is Reason.ABORTED_RELOAD
    assert (await room.end(tx)).reason is Reason.ACCEPTED_UNSUPERVISED
    assert (await room.select(AR, "off")).reason is Reason.UNKNOWN_POINT
    tx = await room.operated(kept)
    assert room.field.calls[-1].point == TAP  # its row has another number now
    room.show(TAP, 8)
    assert (await room.end(tx)).reason is Reason.OK


async def test_a_reload_leaves_what_is_under_way_alone(room: Room) -> None:
    tx = await room.operated(await room.select())
    await room.configure(lambda spec: None if spec.name == TAP else spec)
    room.show(CB, "open")
    assert (await room.end(tx)).reason is Reason.OK
    tx = await room.operated(await room.select(CB, "closed"))
    await room.configure(lambda spec: None if spec.name == CB else spec)
    await room.after(10)
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.FEEDBACK_TIMEOUT, Effect.POSSIBLE)
    assert room.field.count("operate") == 2


@pytest.mark.parametrize("ahead_s", [-120.0, -0.001, 0.0, 60.1, 120.0])
async def test_r23_expired_and_too_far_ahead(room: Room, ahead_s: float) -> None:
    expires_ns = room.now + int(ahead_s * S)
    done = await room.done("select", point=CB, value="open", expires_ns=expires_ns)
    assert (done.reason, done.effect, done.time_ns) == (Reason.EXPIRED, Effect.NONE, room.now)
    assert "by the gateway's clock" in done.detail
    assert (await room.select(expires_ns=room.now + 60 * S)).result is Result.SELECTED


@pytest.mark.case("R24")
async def test_r24_clock_steps_do_not_touch_a_select(room: Room) -> None:
    selected = await room.select()
    for step_s in (3600, -7200):
        room.now += step_s * S
        room.desk.poke()
        await room.quiet()
        assert room.ends(selected.tx) == []
    await room.after(29)
    tx = await room.operated(selected)
    room.show(CB, "open")
    assert (await room.end(tx)).reason is Reason.OK


# --- links, clock, the rest -----------------------------------------------------------------------------------------


@pytest.mark.case("F5")
async def test_f5_the_link_lost_in_each_state(room: Room) -> None:
    selected = await room.select(BAY)
    room.link("BAY1", Link.DOWN)
    done = await room.end(selected.tx)
    assert (done.reason, done.effect) == (Reason.DEVICE_OFFLINE, Effect.NONE)
    room.link("BAY1", Link.UP)
    await room.quiet()
    held = room.field.hold("select")
    tx = await room.ask("select", point=BAY, value="open")
    await until(lambda: room.field.count("select") == 2, "selecting")
    room.link("BAY1", Link.DOWN)
    assert (await room.end(tx)).reason is Reason.DEVICE_OFFLINE
    held.set()
    room.link("BAY1", Link.UP)
    room.field.waits.clear()
    await room.quiet()
    held = room.field.hold("operate")
    tx = await room.operate(await room.select(BAY))
    await until(lambda: room.field.count("operate"), "the write")
    room.link("BAY1", Link.DOWN)
    await room.quiet()
    assert room.ends(tx) == []  # the driver's own word may be under way
    await room.after(0.5)
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.UNKNOWN, Effect.POSSIBLE)
    held.set()
    await room.after(60)
    room.link("BAY1", Link.UP)  # HOLD ends only when the device answers again
    room.field.waits.clear()
    tx = await room.operated(await room.select(BAY))
    room.link("BAY1", Link.DOWN)
    await room.after(9)
    assert room.ends(tx) == []  # 26
    await room.after(1)
    assert (await room.end(tx)).reason is Reason.FEEDBACK_TIMEOUT


async def test_a_hold_lasts_until_the_device_answers_again(room: Room) -> None:
    room.field.replies["operate"] = Reply(Verdict.UNKNOWN)
    tx = await room.operated(await room.select())
    assert (await room.end(tx)).reason is Reason.UNKNOWN
    room.link("FDR12", Link.DOWN)
    await room.after(100)
    room.links["FDR12"] = Link.UP
    assert (await room.select()).reason is Reason.BUSY
    room.link("FDR12", Link.UP)
    assert (await room.select()).result is Result.SELECTED


async def test_a_hold_can_be_cleared_by_an_operator(room: Room) -> None:
    room.field.replies["operate"] = Reply(Verdict.UNKNOWN)
    tx = await room.operated(await room.select())
    await room.end(tx)
    cleared = await room.done("clear", "bob", point=CB)
    assert (cleared.reason, cleared.effect, cleared.stage) == (Reason.OK, Effect.NONE, "clear")
    assert (await room.select()).result is Result.SELECTED
    assert (await room.done("clear", point=CB)).reason is Reason.BUSY
    assert (await room.done("clear", point=TAP)).detail == "FDR12/TAP was not held"


@pytest.mark.case("F14")
async def test_the_device_drops_the_select_by_itself(room: Room) -> None:
    selected = await room.select(BAY)
    room.desk.progress(f"alice/{selected.tx}", Step(StepKind.UNSELECTED))
    assert (await room.end(selected.tx)).reason is Reason.DEVICE_UNSELECTED
    assert room.field.count("cancel") == 0


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (refused(Reason.LOCKED_BY_OTHER_CLIENT), Reason.LOCKED_BY_OTHER_CLIENT),
        (refused(Reason.DEVICE_NO_ANSWER), Reason.DEVICE_NO_ANSWER),
        (Reply(Verdict.UNKNOWN, Reason.UNKNOWN), Reason.DEVICE_NO_ANSWER),
    ],
)
async def test_a_select_the_device_does_not_take(room: Room, reply: Reply, reason: Reason) -> None:
    room.field.replies["select"] = reply
    done = await room.select(BAY)
    assert (done.result, done.reason, done.effect) == (Result.DONE, reason, Effect.NONE)
    await room.quiet()
    assert room.field.verbs == ["select", "cancel"]


async def test_a_select_the_device_does_not_answer(room: Room) -> None:
    room.field.hold("select")
    tx = await room.ask("select", point=BAY, value="open")
    await until(lambda: room.field.count("select"), "selecting")
    await room.after(5)
    assert (await room.end(tx)).reason is Reason.DEVICE_NO_ANSWER
    await until(lambda: room.field.count("cancel"), "taken back")


async def test_the_clock_not_in_step(room: Room) -> None:
    room.synchronised = False
    assert (await room.done("direct", point=SETP, value=70)).reason is Reason.CLOCK_UNSURE
    selected = await room.select(expires_ns=room.now - 3600 * S)
    assert selected.result is Result.SELECTED
    tx = await room.operated(selected, expires_ns=room.now + 3600 * S)
    room.show(CB, "open")
    assert (await room.end(tx)).reason is Reason.OK
    room.synchronised = None
    assert (await room.done("direct", point=SETP, value=70)).reason is Reason.CLOCK_UNSURE


async def test_a_driver_that_raises_leaves_it_unknown(room: Room) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("a bug")

    room.field.on_operate = broken
    tx = await room.operated(await room.select())
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.UNKNOWN, Effect.POSSIBLE)
    assert room.desk.counters()["internal_errors"] == 1


async def test_test_commands_go_out_only_where_the_protocol_has_a_test(room: Room) -> None:
    selected = await room.select(CB, "open", test=True)
    assert selected.result is Result.SELECTED
    done = await room.end(await room.operate(selected, test=True))
    assert (done.reason, "select and cancel instead" in done.detail) == (Reason.UNSUPPORTED, True)
    assert (await room.done("direct", point=SETP, value=60, test=True)).reason is Reason.UNSUPPORTED
    assert room.field.calls == []
    selected = await room.select(BAY, "open", test=True)
    done = await room.end(await room.operated(selected, test=True))
    assert [call.control.test for call in room.field.calls] == [True, True]
    assert (done.reason, done.detail) == (Reason.ACCEPTED_UNSUPERVISED, "a test: nothing is expected to move")


async def test_a_test_that_ended_well_is_not_said_to_be_seen_in_the_field(room: Room) -> None:
    room.field.replies["operate"] = Reply(Verdict.DONE, termination=True)
    tx = await room.operated(await room.select(BAY, "open", test=True), test=True)
    room.show(BAY, "open")  # by somebody else
    await room.quiet()
    assert room.ends(tx) == []
    room.desk.progress(f"alice/{tx}", Step(StepKind.TERMINATED))
    done = await room.end(tx)
    assert (done.reason, done.effect) == (Reason.ACCEPTED_UNSUPERVISED, Effect.POSSIBLE)


async def test_counters_and_snapshot_say_what_goes_on(room: Room) -> None:
    await room.select(AR, "off")
    room.field.replies["operate"] = Reply(Verdict.UNKNOWN)
    await room.operated(await room.select(BAY))
    found = room.desk.snapshot()
    [select], [hold] = found["selects"], found["holds"]  # type: ignore[misc]
    assert (select["point"], select["state"], select["operator"]) == (AR, "selected", "alice")
    assert (hold["point"], hold["state"], hold["value"]) == (BAY, "hold", "open")
    assert found["counts"] == {"selects": 1, "operations": 0, "holds": 1, "tags": 0, "inhibits": 0}
    counters = room.desk.counters()
    assert (counters["now_selected"], counters["now_hold"], counters["operations"]) == (1, 1, 1)
    assert (counters["outcome_possible"], counters["reason_unknown"]) == (1, 1)
    assert all(type(value) is int for value in counters.values())
