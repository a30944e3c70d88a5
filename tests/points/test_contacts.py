from hypothesis import given
from hypothesis import strategies as st

from gatewayd.points import quality as q
from gatewayd.points.contacts import Combiner, ContactPair, Which
from gatewayd.points.types import Sample

MS = 1_000_000
PAIR = ContactPair(double=10, open=11, closed=12, settle_ms=100)


def contact(value: bool | None, at_ms: int, quality: int = 0) -> Sample:
    return Sample(0, value, quality, 0x81, at_ms * MS)


def started(opened: bool, closed: bool, pair: ContactPair = PAIR) -> Combiner:
    combiner = Combiner(pair)
    assert combiner.update(Which.OPEN, contact(opened, 1), 1 * MS) == []
    combiner.update(Which.CLOSED, contact(closed, 1), 1 * MS)
    return combiner


def test_nothing_is_said_before_both_contacts_are_known() -> None:
    combiner = Combiner(PAIR)
    assert combiner.update(Which.CLOSED, contact(True, 5), 0) == []
    assert combiner.update(Which.OPEN, contact(False, 3), 0) == [Sample(10, 2, 0, 0, 5 * MS)]


def test_an_operation_within_the_settling_time_shows_no_intermediate_position() -> None:
    combiner = started(opened=False, closed=True)
    assert combiner.update(Which.CLOSED, contact(False, 1000), 1000 * MS) == []
    assert combiner.deadline_ns == 1100 * MS
    assert combiner.update(Which.OPEN, contact(True, 1060), 1060 * MS) == [Sample(10, 1, 0, 0, 1060 * MS)]
    assert combiner.deadline_ns is None
    assert combiner.expire(9999 * MS) == []


def test_a_switch_that_stays_between_is_intermediate_after_the_settling_time_with_the_time_it_began() -> None:
    combiner = started(opened=False, closed=True)
    combiner.update(Which.CLOSED, contact(False, 1000), 1000 * MS)
    assert combiner.expire(1099 * MS) == []
    assert combiner.expire(1100 * MS) == [Sample(10, 0, 0, 0, 1000 * MS)]
    assert combiner.expire(1200 * MS) == []


def test_both_contacts_closed_is_bad_after_the_settling_time() -> None:
    combiner = started(opened=False, closed=True)
    assert combiner.update(Which.OPEN, contact(True, 1000), 1000 * MS) == []
    assert [sample.value for sample in combiner.expire(1100 * MS)] == [3]


def test_the_same_position_read_again_while_it_settles_does_not_move_the_deadline() -> None:
    combiner = started(opened=False, closed=True)
    combiner.update(Which.CLOSED, contact(False, 1000), 1000 * MS)
    combiner.update(Which.CLOSED, contact(False, 1050), 1050 * MS)
    assert combiner.expire(1100 * MS) == [Sample(10, 0, 0, 0, 1000 * MS)]


def test_backlog_shows_the_intermediate_position_its_times_prove() -> None:
    combiner = started(opened=False, closed=True)
    combiner.update(Which.CLOSED, contact(False, 1000), 9000 * MS)
    samples = combiner.update(Which.OPEN, contact(True, 1500), 9000 * MS)
    assert [(sample.value, sample.time_ns) for sample in samples] == [(0, 1000 * MS), (1, 1500 * MS)]


def test_the_worse_quality_is_told_at_once() -> None:
    combiner = started(opened=False, closed=True)
    lost = q.QUESTIONABLE | q.COMM_LOST
    samples = combiner.update(Which.OPEN, contact(False, 2000, lost), 2000 * MS)
    assert samples == [Sample(10, 2, lost, 0, 2000 * MS)]
    samples = combiner.update(Which.CLOSED, contact(False, 2001, lost), 2001 * MS)
    assert samples == [Sample(10, 0, lost, 0, 2001 * MS)]


def test_a_contact_without_a_value_makes_the_position_unknown_and_invalid() -> None:
    samples = started(opened=False, closed=True).update(Which.OPEN, contact(None, 2000), 2000 * MS)
    assert [(sample.value, q.validity(sample.quality)) for sample in samples] == [(None, "invalid")]


def test_the_same_again_is_not_told_twice() -> None:
    combiner = started(opened=False, closed=True)
    assert combiner.update(Which.CLOSED, contact(True, 1), 5 * MS) == []


def test_without_a_settling_time_the_position_between_is_due_at_once_but_not_between_two_contacts_of_a_batch() -> None:
    combiner = started(opened=False, closed=True, pair=PAIR._replace(settle_ms=0))
    assert combiner.update(Which.CLOSED, contact(False, 1000), 1000 * MS) == []
    assert [sample.value for sample in combiner.expire(1000 * MS)] == [0]


@given(
    st.lists(
        st.tuples(st.sampled_from(Which), st.booleans(), st.integers(0, 300), st.sampled_from([0, q.QUESTIONABLE])),
        max_size=30,
    )
)
def test_after_the_settling_time_the_position_is_always_what_the_contacts_say(steps: list) -> None:
    combiner = Combiner(PAIR)
    now, contacts, told = 0, {}, None
    for which, value, wait, quality in steps:
        now += wait
        for sample in combiner.expire(now * MS):
            told = sample
        contacts[which] = (value, quality)
        for sample in combiner.update(which, contact(value, now, quality), now * MS):
            told = sample
    for sample in combiner.expire((now + 100) * MS):
        told = sample
    if len(contacts) < 2:
        assert told is None
        return
    (opened, q1), (closed, q2) = contacts[Which.OPEN], contacts[Which.CLOSED]
    assert told.value == {(True, False): 1, (False, True): 2, (False, False): 0, (True, True): 3}[opened, closed]
    assert told.quality == q.worst(q1, q2)
