"""Two-phase commit: `Prepare`, `Commit`, `Abort` (docs/explanation/transactions.md).

PREPARE checks a batch and holds it back. Its messages are stored where nobody sees them, and their room in the topics
is reserved. The leases that it acknowledges end, and their messages are frozen: they neither expire nor come back.
COMMIT enqueues the messages and drops the frozen ones. ABORT drops the messages, and gives the frozen ones back to
their places. Messages are ordered by COMMIT: they get their ids then, and delays and expiry count from then.

A transaction with a timeout belongs to its coordinator's group, and is aborted when the time is over. One without waits
for a decision for ever: a prepared participant never decides alone, and also outlives its session. A decision may come
late, twice, or before its PREPARE. The outcomes of finished transactions are remembered, so it changes nothing then.

The coordinator's group tells its decision to the other groups that take part. A participant that waits for long asks
for it. `group_messages` has what the groups say to each other.
"""

from __future__ import annotations

from disheap.errors import GroupNotFound, InvalidArgument, TransactionNotFound, TransactionOver, WrongEpoch
from disheap.protocol.broker import Abort, Commit, Committed, Decision, Inquiry, Prepare
from disheap_heap.commands.checks import check_name, limit_reached
from disheap_heap.delivery.delivery import add, release_lease, serve_all, serve_later
from disheap_heap.delivery.dropping import drop_message
from disheap_heap.delivery.returning import ABORTED, put_back
from disheap_heap.encoding import DONE, encode
from disheap_heap.settings import INQUIRE_AFTER_MS, INQUIRE_PAUSE_MAX_MS, MESSAGES_PER_ABORT_UNIT
from disheap_heap.state.kept import TUPLE_BYTES
from disheap_heap.state.messages import Message, SharedMessage
from disheap_heap.state.prepared import NO_GROUP, Asking, Finished, FrozenMessage, PreparedMessage, Transaction
from disheap_heap.state.state import Lease, State, Topic
from disheap_heap.state.views import keep_frozen, keep_message_bytes
from disheap_heap.tables import timers
from disheap_heap.transactions.atomic import Addition, Settlement, Step, check_items


def prepare(state: State, session: int, command: Prepare) -> bytes:
    """Holds a batch back until the decision. A repeated PREPARE changes nothing."""
    check_name("transaction", command.transaction)
    _check_roles(state, command)
    table, name = state.transactions, command.transaction
    known = table.open.get(name)
    if known is not None:
        _require_epoch(name, known.epoch, command.epoch)
        return DONE
    finished = table.finished.get(name)
    if finished is not None and command.epoch <= finished.epoch:
        _require_epoch(name, finished.epoch, command.epoch)
        raise _over(name, finished, "prepared again")
    _check_limits(state, session)
    _check_outbox(state, command)
    steps = check_items(state, session, command.items)
    _check_bytes(state, steps)
    deadline_ms = state.now_ms + command.timeout_ms if command.timeout_ms else 0
    table.last_number += 1
    transaction = Transaction(
        table.last_number, name, command.epoch, session, state.now_ms, deadline_ms, tuple(command.participants),
        command.coordinator,
    )  # fmt: skip
    touched: dict[int, Topic] = {}
    for step in steps:
        _hold_back(state, transaction, step, touched)
    table.add(transaction)
    if deadline_ms:
        state.timers.arm(timers.TRANSACTION, transaction.number, deadline_ms)
    if command.coordinator != NO_GROUP:
        _ask_later(state, transaction.number, 0, INQUIRE_AFTER_MS)
    serve_all(state, touched.values())
    return DONE


def commit(state: State, session: int, command: Commit) -> bytes:
    """Carries out what is prepared. The reply has the ids of the messages. A repeated COMMIT gets the same reply. A
    participant that has a coordinator is told by it, or is committed by force."""
    name = command.transaction
    transaction = state.transactions.open.get(name)
    if transaction is None:
        finished = _finished(state, name, command.epoch)
        if finished is None:
            raise TransactionNotFound(
                f"there is no transaction {name!r} of epoch {command.epoch}; it was never prepared here, or it ended "
                "so long ago that its outcome is forgotten. Nothing was done: look before you prepare it again"
            )
        if not finished.is_committed:
            raise _over(name, finished, "committed")
        return encode(Committed(finished.first, finished.messages))
    _require_epoch(name, transaction.epoch, command.epoch)
    _require_decider(transaction, command.force)
    return encode(carry_out(state, transaction))


def carry_out(state: State, transaction: Transaction) -> Committed:
    """The decision is COMMIT: enqueues what is prepared, and drops what is frozen."""
    first = state.last_message + 1
    touched: dict[int, Topic] = {}
    for prepared in transaction.messages:
        _enqueue(state, prepared, touched)
    for frozen in transaction.frozen:
        topic = _unreserve(state, frozen.topic, False)
        (state.series.rest if topic is None else topic.counts).acked += 1
        drop_message(state, frozen.message)
    state.settled += len(transaction.frozen)
    count = state.last_message + 1 - first
    _finish(state, transaction, Finished(transaction.epoch, True, first, count))
    serve_all(state, touched.values())
    return Committed(first, count)


def abort(state: State, session: int, command: Abort) -> bytes:
    """Drops what is prepared. A repeated ABORT changes nothing. An ABORT that comes before its PREPARE is remembered,
    so that the late PREPARE is refused. A participant that has a coordinator is aborted by it, or by force."""
    check_name("transaction", command.transaction)
    name = command.transaction
    transaction = state.transactions.open.get(name)
    if transaction is not None:
        _require_epoch(name, transaction.epoch, command.epoch)
        _require_decider(transaction, command.force)
        give_up(state, transaction)
        return DONE
    finished = _finished(state, name, command.epoch)
    if finished is None:
        outcome = Finished(command.epoch, False)
        state.transactions.remember(name, outcome, state.settings.finished_transactions)
    elif finished.is_committed:
        raise _over(name, finished, "aborted")
    return DONE


def give_up(state: State, transaction: Transaction) -> None:
    """The decision is ABORT: drops what is prepared, and gives back what is frozen."""
    serve_all(state, _undo(state, transaction).values())


def inquire(state: State, number: int) -> None:
    """A participant has waited for long: asks the coordinator's group. A question that is still under way is not asked
    twice. The pause before the next question is twice as long."""
    transaction, (_, inquiry, pause_ms) = state.transactions.by_number[number], state.transactions.asking[number]
    if not state.outbox.is_waiting(transaction.coordinator, inquiry):
        inquiry = state.outbox.put(transaction.coordinator, Inquiry(transaction.name, transaction.epoch))
    _ask_later(state, number, inquiry, min(2 * pause_ms, INQUIRE_PAUSE_MAX_MS))


def renumber(state: State) -> None:
    """All groups begin anew. What waits is sent again, and every participant soon asks as if for the first time."""
    state.outbox.renumber()
    state.transactions.forget_told()
    for number in state.transactions.asking:
        state.timers.disarm(timers.INQUIRY, number)
        _ask_later(state, number, 0, INQUIRE_AFTER_MS)


def _ask_later(state: State, number: int, inquiry: int, pause_ms: int) -> None:
    at_ms = state.now_ms + pause_ms
    state.transactions.asking[number] = Asking(at_ms, inquiry, pause_ms)
    state.timers.arm(timers.INQUIRY, number, at_ms)


def time_out(state: State, number: int) -> int:
    """The time of a coordinator's transaction is over: aborts it. Returns the units of work."""
    transaction = state.transactions.by_number[number]
    for topic in _undo(state, transaction).values():
        serve_later(state, topic)
    return 1 + _held_units(transaction) + len(transaction.participants)


def _hold_back(state: State, transaction: Transaction, step: Step, touched: dict[int, Topic]) -> None:
    """Stores one step of a PREPARE, and adds the topics to be served, because a consumer has credit again."""
    if isinstance(step, Addition):
        if step.topics:
            numbers = tuple(topic.number for topic in step.topics)
            transaction.hold(PreparedMessage(numbers, step.message, step.body))
        for topic in step.topics:
            topic.reserve(step.message.delay_ms > 0)
        state.units += len(step.topics)
        return
    assert isinstance(step, Settlement)  # a Prepare closes no barriers
    for lease in step.leases:
        topic = _freeze(state, transaction, lease)
        touched[topic.number] = topic


def _freeze(state: State, transaction: Transaction, lease: Lease) -> Topic:
    """Ends a lease, and keeps its message out of reach. Returns the topic."""
    topic = release_lease(state, lease)
    message = lease.message.after(lease.epoch)
    if state.views:
        keep_message_bytes(state, message.id, TUPLE_BYTES)
    topic.reserve(False)
    transaction.frozen.append(FrozenMessage(message, topic.number))
    return topic


def _enqueue(state: State, prepared: PreparedMessage, touched: dict[int, Topic]) -> None:
    """Enqueues a prepared message into those of its topics that still exist."""
    is_delayed = prepared.new.delay_ms > 0
    topics = [topic for number in prepared.topics if (topic := state.topics_by_number.get(number)) is not None]
    dropped = len(prepared.topics) - len(topics)
    state.dropped += dropped
    state.series.rest.dropped += dropped
    kind = SharedMessage if len(topics) > 1 else Message
    for topic in topics:
        topic.unreserve(is_delayed)
        add(state, topic, prepared.new, prepared.body, kind)
        touched[topic.number] = topic


def _undo(state: State, transaction: Transaction) -> dict[int, Topic]:
    """Drops the prepared messages and gives the frozen ones back. Returns the topics to serve."""
    for prepared in transaction.messages:
        for number in prepared.topics:
            _unreserve(state, number, prepared.new.delay_ms > 0)
    touched: dict[int, Topic] = {}
    for frozen in transaction.frozen:
        topic = _unreserve(state, frozen.topic, False)
        if topic is None:
            drop_message(state, frozen.message)
            continue
        if state.views:
            keep_frozen(state, frozen)
        put_back(state, topic, frozen.message, ABORTED)
        touched[topic.number] = topic
    state.units += _held_units(transaction)
    _finish(state, transaction, Finished(transaction.epoch, False))
    return touched


def _held_units(transaction: Transaction) -> int:
    """The units of work of giving up what a transaction holds."""
    return len(transaction.frozen) + len(transaction.messages) // MESSAGES_PER_ABORT_UNIT


def _unreserve(state: State, number: int, is_delayed: bool) -> Topic | None:
    """Gives up room in a topic. Returns the topic, or None if it was deleted meanwhile."""
    topic = state.topics_by_number.get(number)
    if topic is not None:
        topic.unreserve(is_delayed)
    return topic


def _finish(state: State, transaction: Transaction, outcome: Finished) -> None:
    if transaction.deadline_ms:
        state.timers.disarm(timers.TRANSACTION, transaction.number)
    if transaction.coordinator != NO_GROUP:
        state.timers.disarm(timers.INQUIRY, transaction.number)
    state.units += len(transaction.participants)
    decision = Decision(transaction.name, transaction.epoch, outcome.is_committed)
    told = tuple((group, state.outbox.put(group, decision)) for group in transaction.participants)
    outcome = outcome._replace(told=told) if outcome.is_committed else outcome
    state.transactions.finish(transaction, outcome, state.settings.finished_transactions)


def _check_roles(state: State, command: Prepare) -> None:
    """Raises `InvalidArgument` unless the group is the coordinator's, a participant, or both of neither, and
    `GroupNotFound` for a group that is not there. The order of the numbers leaves one group that can be the
    coordinator's."""
    groups, own, coordinator = command.participants, state.group, command.coordinator
    if groups:
        if coordinator != NO_GROUP or not command.timeout_ms:
            raise InvalidArgument(
                "a PREPARE with participants is for the coordinator's group; it names no coordinator and has a "
                "timeout_ms. Nothing was done"
            )
        if list(groups) != sorted(set(groups)) or groups[0] <= own:
            raise InvalidArgument(
                f"participants of a transaction whose coordinator is group {own} have higher numbers, each once and in "
                f"ascending order, and not {list(groups)}. The lowest group that takes part is the coordinator's"
            )
    elif coordinator != NO_GROUP and (command.timeout_ms or coordinator >= own):
        raise InvalidArgument(
            f"a PREPARE in group {own} names group {coordinator} as the coordinator's. That number has to be lower. "
            "timeout_ms has to be 0, because only the coordinator's group aborts. Nothing was done"
        )
    for group in (*groups, *([coordinator] if coordinator != NO_GROUP else [])):
        if group not in state.groups:
            raise GroupNotFound(
                f"transaction {command.transaction!r} names group {group}, and those that take part in transactions "
                f"are {list(state.groups)}. Nothing was done"
            )


def _check_outbox(state: State, command: Prepare) -> None:
    """Raises `InvalidArgument` if too much waits for another group that takes part."""
    coordinators = [command.coordinator] if command.coordinator != NO_GROUP else []
    for group in (*command.participants, *coordinators):
        waiting = state.outbox.count(group)
        if waiting >= state.settings.outbox_messages:
            raise limit_reached("outbox_messages", waiting, f"decisions that group {group} has not confirmed")


def _check_limits(state: State, session: int) -> None:
    """Raises `InvalidArgument` if there are too many open transactions."""
    table, settings = state.transactions, state.settings
    if len(table.open) >= settings.transactions:
        raise limit_reached("transactions", len(table.open), "open transactions")
    of_session = table.of_session.get(session, 0)
    if of_session >= settings.session_transactions:
        raise limit_reached("session_transactions", of_session, f"open transactions of session {session}")


def _check_bytes(state: State, steps: list[Step]) -> None:
    """Raises `InvalidArgument` if the prepared messages of all transactions would be too large together."""
    size, limit = sum(len(step.body) for step in steps if isinstance(step, Addition)), state.settings.transaction_bytes
    if state.transactions.prepared_bytes + size > limit:
        raise InvalidArgument(
            f"prepared messages have {state.transactions.prepared_bytes} bytes, and {size} more are over the limit of "
            f"{limit} (`transaction_bytes` in [machine.heap]); decide some transactions first. `disheap tx ls` shows "
            "them"
        )


def _finished(state: State, name: str, epoch: int) -> Finished | None:
    """The outcome of this epoch, or None if it is not known. Raises `WrongEpoch` for an earlier epoch."""
    finished = state.transactions.finished.get(name)
    if finished is None or epoch > finished.epoch:
        return None
    _require_epoch(name, finished.epoch, epoch)
    return finished


def _require_epoch(name: str, known: int, epoch: int) -> None:
    if known != epoch:
        raise WrongEpoch(
            f"transaction {name!r} has epoch {known}, not {epoch}. Nothing was done: whoever sent this has been "
            "replaced, or has to decide the earlier epoch first"
        )


def _require_decider(transaction: Transaction, force: bool) -> None:
    """Raises `InvalidArgument` if another group decides, and nobody insists."""
    if transaction.coordinator != NO_GROUP and not force:
        raise InvalidArgument(
            f"group {transaction.coordinator} decides transaction {transaction.name!r}, and tells this group; nothing "
            "was done. Decide it there. If that group is lost for good, insist with `force`"
        )


def _over(name: str, finished: Finished, wanted: str) -> TransactionOver:
    ended = "committed" if finished.is_committed else "aborted"
    return TransactionOver(
        f"transaction {name!r} of epoch {finished.epoch} is {ended}, and cannot be {wanted}; nothing was done. A new "
        "attempt needs a higher epoch"
    )
