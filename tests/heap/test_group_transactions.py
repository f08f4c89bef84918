"""Two-phase commit over several groups: what the coordinator's group and the participants tell each other."""

from __future__ import annotations

from typing import Any

import pytest

from disheap.errors import GroupNotFound, InvalidArgument, TransactionOver
from disheap.interfaces import MachineContext, Principal
from disheap.protocol import broker
from disheap.protocol.broker import (
    Abort,
    Ack,
    Commit,
    Committed,
    Confirm,
    CreateTopic,
    Decision,
    Enqueue,
    GroupMessage,
    Inquiry,
    ListTransactions,
    NewMessage,
    Prepare,
    Publish,
    SetGroups,
    Subscribe,
)
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import INQUIRE_AFTER_MS, INQUIRE_PAUSE_MAX_MS, HeapSettings

from .driver import Driver, token

COORDINATOR, FIRST, SECOND = 0, 1, 2


def group(number: int, **settings: Any) -> Driver:
    driver = Driver(group=number, **settings)
    driver.do(CreateTopic("jobs"))
    return driver


def prepare(driver: Driver, *items: Any, name: str = "tx", epoch: int = 1) -> None:
    """In the coordinator's group for both participants, or in a participant."""
    chosen = list(items) or [Enqueue("jobs", NewMessage(b"new"))]
    if driver.group == COORDINATOR:
        driver.do(Prepare(name, epoch, 100, chosen, [FIRST, SECOND]))
    else:
        driver.do(Prepare(name, epoch, 0, chosen, coordinator=COORDINATOR))


def sent(driver: Driver, to: int) -> list[Any]:
    """What waits for a group."""
    decoded = [broker.decode_command.decode(command) for _, command in driver.machine.outbox(to, 0, 1000)]
    return [one.message for one in decoded if isinstance(one, GroupMessage)]


def carry(source: Driver, target: Driver) -> None:
    """All that waits at the source for the target arrives, and is confirmed."""
    for number, command in source.machine.outbox(target.group, 0, 1000):
        _, effects = target.machine.apply(1, target.now, 0, command)
        target._collect(effects)
        source.machine.apply(1, source.now, 0, source.machine.forget(target.group, number))


def ready(driver: Driver) -> int:
    return driver.info().ready


def outcome(driver: Driver, name: str = "tx") -> str:
    page = driver.ask(ListTransactions(name))
    return page.outcome or ("open" if page.transactions else "")


def three() -> tuple[Driver, Driver, Driver]:
    groups = group(COORDINATOR), group(FIRST), group(SECOND)
    for one in groups:
        prepare(one)
    return groups


# --- decisions ---


def test_a_commit_is_told_to_all_participants_and_leaves_nothing() -> None:
    coordinator, *participants = three()
    assert coordinator.do(Commit("tx", 1)) == Committed(1, 1)
    for one in participants:
        assert (ready(one), outcome(one)) == (0, "open")
        carry(coordinator, one)
        assert (ready(one), outcome(one)) == (1, "committed")
    assert coordinator.machine.waiting() == {}
    for one in (coordinator, *participants):
        assert one.machine.next_deadline() is None
        assert one.machine.stats()["transactions"] == one.machine.stats()["forwarding"] == 0


@pytest.mark.parametrize("ends", ["abort", "time"])
def test_an_abort_is_told_to_all_participants(ends: str) -> None:
    coordinator, *participants = three()
    if ends == "abort":
        coordinator.do(Abort("tx", 1))
    else:
        coordinator.wait(100)
    for one in participants:
        carry(coordinator, one)
        assert (ready(one), outcome(one)) == (0, "aborted")
    assert outcome(coordinator) == "aborted"


def test_a_frozen_lease_of_a_participant_comes_back_once_or_never() -> None:
    for decision, again in ((Commit("tx", 1), []), (Abort("tx", 1), [(1, 2)])):
        coordinator, participant = group(COORDINATOR), group(FIRST)
        participant.do(Enqueue("jobs", NewMessage(b"held")))
        participant.do(Subscribe("jobs", 5))
        (held,) = participant.deliveries()
        prepare(coordinator)
        prepare(participant, Ack([token(held)]))
        coordinator.do(decision)
        for _ in range(2):
            carry(coordinator, participant)
        participant.do(decision, session=2)
        assert [token(one) for one in participant.deliveries()] == again


def test_a_message_that_comes_again_changes_nothing() -> None:
    coordinator, participant, _ = three()
    coordinator.do(Commit("tx", 1))
    prepare(coordinator, name="next")
    coordinator.do(Abort("next", 1))
    commands = [command for _, command in coordinator.machine.outbox(FIRST, 0, 10)]
    for command in commands:
        participant.machine.apply(1, 0, 0, command)
    before = participant.machine.state_hash()
    for command in commands:
        participant.machine.apply(2, 0, 0, command)
        assert participant.machine.state_hash() == before


def test_a_confirmation_forgets_no_later_message() -> None:
    coordinator, _, _ = three()
    coordinator.do(Commit("tx", 1))
    prepare(coordinator, name="next")
    coordinator.do(Abort("next", 1))
    for _ in range(2):
        coordinator.do(Confirm(FIRST, 1), session=0)
        assert sent(coordinator, FIRST) == [Decision("next", 1, False)]


def test_a_message_before_the_one_in_front_of_it_is_refused() -> None:
    _, participant, _ = three()
    before = participant.machine.state_hash()
    with pytest.raises(InvalidArgument, match="message 2 of group 0 came, and the last one before it was 0"):
        participant.do(GroupMessage(COORDINATOR, 2, Decision("tx", 1, True)), session=0)
    assert participant.machine.state_hash() == before


@pytest.mark.parametrize(
    "message", [GroupMessage(COORDINATOR, 1, Decision("tx", 1, True)), Confirm(FIRST, 1), SetGroups([7])]
)
def test_a_client_cannot_pass_for_a_group(message: Any) -> None:
    for one in three():
        before = one.machine.state_hash()
        with pytest.raises(InvalidArgument, match="no client"):
            one.do(message)
        assert one.machine.state_hash() == before


def test_a_client_aborts_a_participant_by_force_alone() -> None:
    for one in three()[1:]:
        before = one.machine.state_hash()
        with pytest.raises(InvalidArgument, match="group 0 decides transaction 'tx', and tells this group; nothing"):
            one.do(Abort("tx", 1), session=2)
        assert one.machine.state_hash() == before
        one.do(Abort("tx", 1, force=True), session=2)
        assert outcome(one) == "aborted"
        one.do(Abort("tx", 1), session=2)


def test_a_command_without_a_session_is_refused() -> None:
    driver = group(0)
    before = driver.machine.state_hash()
    with pytest.raises(InvalidArgument, match="a Subscribe is for a client with a session"):
        driver.do(Subscribe("jobs", 1), session=0)
    assert driver.machine.state_hash() == before


@pytest.mark.parametrize(
    "decision", [Decision("tx", 2, True), Decision("tx", 2, False), Decision("other", 1, True)], ids=str
)
def test_a_decision_on_another_attempt_changes_no_transaction(decision: Decision) -> None:
    participant = group(FIRST)
    prepare(participant)
    participant.do(GroupMessage(COORDINATOR, 1, decision), session=0)
    assert outcome(participant) == "open"


def test_a_decision_of_another_group_than_the_coordinators_changes_nothing() -> None:
    participant = group(SECOND)
    prepare(participant)
    participant.do(GroupMessage(FIRST, 1, Decision("tx", 1, True)), session=0)
    assert outcome(participant) == "open"


def test_an_abort_that_comes_before_its_prepare_refuses_it() -> None:
    participant = group(FIRST)
    participant.do(GroupMessage(COORDINATOR, 1, Decision("tx", 1, False)), session=0)
    with pytest.raises(TransactionOver, match="is aborted"):
        prepare(participant)


def test_a_late_abort_of_an_earlier_attempt_keeps_the_later_outcome() -> None:
    participant = group(FIRST)
    prepare(participant, epoch=2)
    participant.do(Commit("tx", 2, force=True))
    participant.do(GroupMessage(COORDINATOR, 1, Decision("tx", 1, False)), session=0)
    assert outcome(participant) == "committed"


def test_a_client_commits_a_participant_by_force_alone() -> None:
    """The coordinator's group has not decided, and may still abort."""
    coordinator, participant, _ = three()
    before = participant.machine.state_hash()
    with pytest.raises(InvalidArgument, match="group 0 decides transaction 'tx', and tells this group"):
        participant.do(Commit("tx", 1))
    assert participant.machine.state_hash() == before
    assert participant.do(Commit("tx", 1, force=True)) == Committed(1, 1)
    assert participant.do(Commit("tx", 1)) == Committed(1, 1), "it is asked for again"
    assert coordinator.do(Commit("tx", 1)) == Committed(1, 1)
    carry(coordinator, participant)
    assert ready(participant) == 1


def test_the_numbers_of_committed_messages_are_told_later() -> None:
    coordinator, participant, _ = three()
    participant.do(Enqueue("jobs", NewMessage(b"before")))
    coordinator.do(Commit("tx", 1))
    carry(coordinator, participant)
    found = participant.ask(ListTransactions("tx"))
    assert (found.outcome, found.first, found.count) == ("committed", 2, 1)
    coordinator.do(Abort("never", 1))
    found = coordinator.ask(ListTransactions("never"))
    assert (found.outcome, found.first, found.count) == ("aborted", 0, 0)


# --- questions ---


def test_a_participant_asks_and_asks_again_only_after_a_confirmation() -> None:
    _, participant, _ = three()
    participant.wait(INQUIRE_AFTER_MS - 1)
    assert sent(participant, COORDINATOR) == []
    participant.wait(1)
    participant.wait(3 * INQUIRE_AFTER_MS)  # beyond the pause before the next question, which is twice as long
    assert sent(participant, COORDINATOR) == [Inquiry("tx", 1)]
    participant.do(Confirm(COORDINATOR, 1), session=0)
    participant.wait(4 * INQUIRE_AFTER_MS)
    ((number, _),) = participant.machine.outbox(COORDINATOR, 0, 10)
    assert number == 2


def questions_of(participant: Driver, until_ms: int) -> list[int]:
    """At which times it asks, if each question is confirmed at once and none is answered."""
    times = []
    while participant.now < until_ms:
        deadline = participant.machine.next_deadline()
        assert deadline is not None
        participant.wait(deadline - participant.now)
        ((number, _),) = participant.machine.outbox(COORDINATOR, 0, 10)
        participant.do(Confirm(COORDINATOR, number), session=0)
        times.append(participant.now)
    return times


def test_the_pause_between_questions_grows_up_to_a_bound() -> None:
    participant = group(FIRST)
    prepare(participant)
    began = participant.now
    assert INQUIRE_AFTER_MS == 5000 and INQUIRE_PAUSE_MAX_MS == 60_000
    twin = participant.restored()
    expected = [began + 1000 * at for at in (5, 15, 35, 75, 135, 195, 255)]
    assert questions_of(participant, began + 250_000) == expected
    assert questions_of(twin, began + 30_000) == expected[:3]
    assert questions_of(twin.restored(), began + 250_000) == expected[3:]


def test_a_participant_of_a_restored_cluster_asks_soon() -> None:
    participant = group(FIRST)
    prepare(participant)
    questions_of(participant, participant.now + 250_000)
    participant.machine.renumber()
    participant.wait(INQUIRE_AFTER_MS)
    assert sent(participant, COORDINATOR) == [Inquiry("tx", 1)]


def test_a_transaction_that_the_coordinator_does_not_know_is_aborted() -> None:
    coordinator, participant = group(COORDINATOR), group(FIRST)
    prepare(participant)
    participant.wait(INQUIRE_AFTER_MS)
    carry(participant, coordinator)
    assert sent(coordinator, FIRST) == [Decision("tx", 1, False)]
    carry(coordinator, participant)
    assert outcome(participant) == "aborted"


def test_a_prepare_that_comes_after_a_presumed_abort_is_refused() -> None:
    """The driver has sent both PREPAREs at once, and the coordinator's was under way for longer."""
    coordinator, participant = group(COORDINATOR), group(FIRST)
    prepare(participant)
    participant.wait(INQUIRE_AFTER_MS)
    carry(participant, coordinator)
    with pytest.raises(TransactionOver, match="is aborted"):
        prepare(coordinator)
    assert outcome(coordinator) == "aborted"


def test_a_question_about_a_later_attempt_waits_for_the_end_of_the_earlier_one() -> None:
    coordinator, participant = group(COORDINATOR), group(FIRST)
    prepare(coordinator)
    prepare(participant, epoch=2)
    participant.wait(INQUIRE_AFTER_MS)
    carry(participant, coordinator)
    assert sent(coordinator, FIRST) == []
    coordinator.do(Commit("tx", 1))
    carry(coordinator, participant)
    participant.wait(2 * INQUIRE_AFTER_MS)
    carry(participant, coordinator)
    assert sent(coordinator, FIRST) == [Decision("tx", 2, False)]
    with pytest.raises(TransactionOver, match="epoch 2 is aborted"):
        prepare(coordinator, epoch=2)


def test_a_question_about_an_open_transaction_is_not_answered_yet() -> None:
    coordinator, participant, _ = three()
    participant.wait(INQUIRE_AFTER_MS)
    carry(participant, coordinator)
    assert coordinator.machine.waiting() == {}
    coordinator.do(Commit("tx", 1))
    carry(coordinator, participant)
    assert outcome(participant) == "committed"


def test_a_question_while_the_decision_is_under_way_gets_no_second_answer() -> None:
    coordinator, participant, _ = three()
    coordinator.do(Commit("tx", 1))
    participant.wait(INQUIRE_AFTER_MS)
    carry(participant, coordinator)
    assert sent(coordinator, FIRST) == [Decision("tx", 1, True)]


def test_a_question_about_a_committed_transaction_is_answered_with_commit() -> None:
    """The participant was restored from an earlier moment than the coordinator's group."""
    coordinator, participant, _ = three()
    coordinator.do(Commit("tx", 1))
    coordinator.do(Confirm(FIRST, 1), session=0)
    coordinator.machine.renumber()
    participant.machine.renumber()
    participant.wait(INQUIRE_AFTER_MS)
    carry(participant, coordinator)
    carry(coordinator, participant)
    assert (outcome(participant), ready(participant)) == ("committed", 1)


def test_an_answer_that_has_forgotten_the_outcome_comes_after_the_decision() -> None:
    coordinator, participant = group(COORDINATOR, finished_transactions=1), group(FIRST)
    for one in (coordinator, participant):
        prepare(one)
    coordinator.do(Commit("tx", 1))
    prepare(coordinator, name="next")
    coordinator.do(Commit("next", 1))
    assert outcome(coordinator) == ""
    participant.wait(INQUIRE_AFTER_MS)
    carry(participant, coordinator)
    carry(coordinator, participant)
    assert outcome(participant) == "committed"


def test_a_decision_in_time_stops_the_questions() -> None:
    coordinator, participant, _ = three()
    coordinator.do(Commit("tx", 1))
    carry(coordinator, participant)
    participant.wait(2 * INQUIRE_AFTER_MS)
    assert participant.machine.waiting() == {} and participant.machine.next_deadline() is None


# --- who may coordinate, and bounds ---


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Prepare("tx", 1, 0, [Enqueue("jobs", NewMessage(b""))], [2]), "has a timeout_ms"),
        (Prepare("tx", 1, 9, [Enqueue("jobs", NewMessage(b""))], [2], 0), "names no coordinator"),
        (Prepare("tx", 1, 9, [Enqueue("jobs", NewMessage(b""))], [0, 2]), "have higher numbers"),
        (Prepare("tx", 1, 9, [Enqueue("jobs", NewMessage(b""))], [1]), "have higher numbers"),
        (Prepare("tx", 1, 9, [Enqueue("jobs", NewMessage(b""))], [3, 2]), r"and not \[3, 2\]"),
        (Prepare("tx", 1, 9, [Enqueue("jobs", NewMessage(b""))], [2, 2]), "each once"),
        (Prepare("tx", 1, 0, [Enqueue("jobs", NewMessage(b""))], coordinator=1), "has to be lower"),
        (Prepare("tx", 1, 9, [Enqueue("jobs", NewMessage(b""))], coordinator=0), "only the coordinator's group aborts"),
    ],
    ids=range(8),
)
def test_the_lowest_group_is_the_coordinators(wrong: Prepare, words: str) -> None:
    driver = group(1)
    before = driver.machine.state_hash()
    with pytest.raises(InvalidArgument, match=words):
        driver.do(wrong)
    assert driver.machine.state_hash() == before


@pytest.mark.parametrize(
    ("own", "prepare"),
    [
        (1, Prepare("tx", 1, 9, [Enqueue("jobs", NewMessage(b""))], [2, 3])),
        (3, Prepare("tx", 1, 0, [Enqueue("jobs", NewMessage(b""))], coordinator=0)),
    ],
    ids=["participant", "coordinator"],
)
def test_a_group_that_is_not_there_is_refused(own: int, prepare: Prepare) -> None:
    """It would never take the decision, or never give one."""
    driver = group(own)
    driver.do(SetGroups([1, 2]), session=0)
    for one in (driver, driver.restored()):
        before = one.machine.state_hash()
        with pytest.raises(GroupNotFound, match=r"names group [03], and those that take part .* are \[1, 2\]"):
            one.do(prepare)
        assert one.machine.state_hash() == before
        one.do(SetGroups([0, 1, 2, 3]), session=0)
        one.do(prepare)


def test_a_machine_in_its_first_state_knows_no_other_group() -> None:
    machine = HeapMachine(HeapSettings(), MachineContext(0))
    machine.session_opened(1, Principal())
    command = broker.encode(Prepare("tx", 1, 9, [Publish("", "x", NewMessage(b""))], [1]))
    with pytest.raises(GroupNotFound):
        machine.apply(1, 0, 1, command)
    assert machine.know_groups([0]) is None
    told = machine.know_groups([0, 1])
    assert told is not None
    machine.apply(2, 0, 0, told)
    machine.apply(3, 0, 1, command)
    assert machine.know_groups([0, 1]) is None


def test_what_waits_for_a_group_is_bounded() -> None:
    coordinator = group(COORDINATOR, outbox_messages=1)
    prepare(coordinator, name="a")
    coordinator.do(Abort("a", 1))
    with pytest.raises(InvalidArgument, match="1 decisions that group 1 has not confirmed, which is the limit"):
        prepare(coordinator, name="b")
    coordinator.do(Confirm(FIRST, 1), session=0)
    coordinator.do(Confirm(SECOND, 1), session=0)
    prepare(coordinator, name="b")


def test_questions_that_wait_count_for_the_bound_of_a_participant() -> None:
    participant = group(FIRST, outbox_messages=1)
    prepare(participant, name="a")
    participant.wait(INQUIRE_AFTER_MS)
    with pytest.raises(InvalidArgument, match="`outbox_messages`"):
        prepare(participant, name="b")


@pytest.mark.parametrize("decision", [Commit("a", 1), Abort("a", 1)], ids=["commit", "abort"])
def test_a_decision_counts_its_participants_as_work(decision: Any) -> None:
    with_many, with_one = group(COORDINATOR), group(COORDINATOR)
    for driver, count in ((with_many, 63), (with_one, 1)):
        driver.do(Prepare("a", 1, 100, [Enqueue("jobs", NewMessage(b"new"))], list(range(1, 1 + count))))
    units = []
    for driver in (with_many, with_one):
        before = driver.machine.work_done()
        driver.do(decision)
        units.append(driver.machine.work_done() - before)
    assert units[0] - units[1] == 62


def test_an_abort_by_time_counts_its_participants_as_work() -> None:
    driver = group(COORDINATOR)
    for number in range(10):
        driver.do(Prepare(f"{number}", 1, 100, [Enqueue("jobs", NewMessage(b"new"))], list(range(1, 64))))
    assert driver.wait(100, limit=100) == 100
    assert len(driver.ask(ListTransactions()).transactions) == 8
    driver.work_off(100)
    assert len(sent(driver, 63)) == 10


# --- what shows and keeps it ---


def test_a_restored_replica_goes_on_with_messages_and_questions() -> None:
    coordinator, participant, _ = three()
    participant.wait(INQUIRE_AFTER_MS)
    coordinator.do(Abort("tx", 1))
    for one in (coordinator, participant):
        twin = one.restored()
        assert twin.machine.waiting() == one.machine.waiting() != {}
        for group_number in one.machine.waiting():
            assert twin.machine.outbox(group_number, 0, 10) == one.machine.outbox(group_number, 0, 10)
        for later in (one, twin):
            later.wait(INQUIRE_AFTER_MS)
        assert twin.machine.state_hash() == one.machine.state_hash()
        assert twin.machine.memory_bytes() == one.machine.memory_bytes()


def test_a_restored_participant_takes_the_next_message() -> None:
    coordinator, participant, _ = three()
    coordinator.do(Commit("tx", 1))
    carry(coordinator, participant)
    twin = participant.restored()
    twin.do(GroupMessage(COORDINATOR, 2, Decision("next", 1, False)), session=0)
    assert outcome(twin, "next") == "aborted"


def test_a_view_shows_the_messages_of_its_moment() -> None:
    coordinator, _, _ = three()
    coordinator.do(Commit("tx", 1))
    expected = b"".join(coordinator.machine.snapshot())
    view = coordinator.machine.snapshot()
    coordinator.do(Confirm(FIRST, 1), session=0)
    prepare(coordinator, name="later")
    coordinator.do(Commit("later", 1))
    assert b"".join(view) == expected


def test_all_groups_begin_anew_after_a_restore() -> None:
    """The coordinator's group is of an earlier moment: it would send under numbers that the participant has taken."""
    coordinator, participant, _ = three()
    for name in ("a", "b"):
        prepare(coordinator, name=name)
    earlier = coordinator.restored()
    for name in ("a", "b"):
        coordinator.do(Abort(name, 1))
    carry(coordinator, participant)
    earlier.machine.renumber()
    participant.machine.renumber()
    earlier.do(Commit("tx", 1))
    carry(earlier, participant)
    assert outcome(participant) == "committed"


def test_the_groups_of_a_transaction_are_listed() -> None:
    coordinator, participant, _ = three()
    (one,) = coordinator.ask(ListTransactions()).transactions
    assert (one.participants, one.coordinator) == ([FIRST, SECOND], -1)
    (one,) = participant.ask(ListTransactions()).transactions
    assert (one.participants, one.coordinator) == ([], COORDINATOR)


def test_what_waits_is_counted_in_memory_and_in_metrics() -> None:
    coordinator, _, _ = three()
    before = coordinator.machine.memory_bytes()
    coordinator.do(Commit("tx", 1))
    values = {metric.name: metric.samples[0][1] for metric in coordinator.machine.metrics(0) if metric.samples}
    assert values["disheap_forwarding_messages"] == 2 and values["disheap_transactions"] == 0
    prepare(coordinator, name="next")
    values = {metric.name: metric.samples[0][1] for metric in coordinator.machine.metrics(3000) if metric.samples}
    assert (values["disheap_transactions"], values["disheap_prepared_messages"]) == (1, 1)
    assert values["disheap_oldest_transaction_age_seconds"] == 3
    coordinator.do(Abort("next", 1))
    assert coordinator.machine.memory_bytes() > before - 700
