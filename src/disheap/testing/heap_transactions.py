"""Transactions over the model of the heap machine: PREPARE, COMMIT, ABORT, and the timeout of a coordinator.

The messages of a transaction get their ids, and so their places, from COMMIT.
"""

from __future__ import annotations

from collections.abc import Sequence

from disheap.protocol import broker
from disheap.testing import heap_batches
from disheap.testing.heap_model import INQUIRE_AFTER_MS, Model
from disheap.testing.heap_records import ModelTopic, ModelTransaction


def refusal(model: Model, command: broker.Prepare | broker.Commit | broker.Abort) -> str:
    """The code of the error for this name and epoch, or ""."""
    known, finished = model.transactions.get(command.transaction), model.finished.get(command.transaction)
    if known is not None:
        is_told = not isinstance(command, broker.Prepare) and known.coordinator >= 0 and not command.force
        return "wrong-epoch" if known.epoch != command.epoch else "invalid-argument" if is_told else ""
    if finished is not None and command.epoch < finished.epoch:
        return "wrong-epoch"
    over = finished is not None and finished.epoch == command.epoch
    match command:
        case broker.Prepare():
            return "transaction-over" if over else ""
        case broker.Commit():
            if not over:
                return "transaction-not-found"
            return "" if finished is not None and finished.is_committed else "transaction-over"
        case broker.Abort():
            return "transaction-over" if over and finished is not None and finished.is_committed else ""


def role_refusal(model: Model, command: broker.Prepare) -> str:
    """The code of the error for the groups that a PREPARE names, or ""."""
    own, groups, coordinator = model.group, command.participants, command.coordinator
    is_coordinator = not groups or (coordinator < 0 < command.timeout_ms and [own, *groups] == sorted({own, *groups}))
    is_participant = coordinator < 0 or (coordinator < own and not command.timeout_ms)
    if not (is_coordinator and is_participant):
        return "invalid-argument"
    named = [*groups, *([coordinator] if coordinator >= 0 else [])]
    return "" if all(group in model.known_groups for group in named) else "group-not-found"


def prepare(model: Model, session: int, command: broker.Prepare, items: Sequence[heap_batches.Item]) -> None:
    """Holds a batch back that is not refused. Does nothing if it is prepared already."""
    if command.transaction in model.transactions:
        return
    model.last_transaction += 1
    deadline_ms = model.now + command.timeout_ms if command.timeout_ms else 0
    one = ModelTransaction(model.last_transaction, command.transaction, command.epoch, session, model.now, deadline_ms)
    touched: list[ModelTopic] = []
    for item, topics in items:
        if isinstance(item, broker.Enqueue | broker.Publish):
            if topics:
                one.prepared.append((item.message, topics))
            continue
        assert not isinstance(item, broker.CloseBarrier)
        for token in item.tokens:
            message = model.lease(session, token)
            assert message is not None
            touched.append(message.topic)
            model.release(message)
            message.transaction = one
            one.frozen.append(message)
    one.participants, one.coordinator = tuple(command.participants), command.coordinator
    one.pause_ms = INQUIRE_AFTER_MS
    one.asks_at_ms = model.now + one.pause_ms if command.coordinator >= 0 else 0
    model.transactions[one.name] = one
    for topic in dict.fromkeys(touched):
        model.serve(topic)


def commit(model: Model, command: broker.Commit) -> tuple[int, int]:
    """Carries out what is prepared. Returns the first id and the count, also of a transaction that is committed."""
    one = model.transactions.pop(command.transaction, None)
    if one is None:
        finished = model.finished[command.transaction]
        return finished.first, finished.count
    first = model.last_message + 1
    touched: list[ModelTopic] = []
    for new, topics in one.prepared:
        for topic in topics:
            if topic.alive:
                model.put(topic, new)
                touched.append(topic)
    for message in one.frozen:
        model.messages.remove(message)
        model.acked.append(message)
    count = model.last_message + 1 - first
    model.finish(one.name, one.epoch, True, first, count)
    model.send_decision(one, True)
    for topic in dict.fromkeys(touched):
        model.serve(topic)
    return first, count


def abort(model: Model, command: broker.Abort) -> None:
    """Drops what is prepared. Remembers an abort that comes before its PREPARE."""
    one = model.transactions.get(command.transaction)
    if one is not None:
        for topic in dict.fromkeys(model.undo(one)):
            model.serve(topic)
    else:
        finished = model.finished.get(command.transaction)
        if finished is None or finished.epoch < command.epoch:
            model.finish(command.transaction, command.epoch, False)


def take_message(model: Model, command: broker.GroupMessage) -> str:
    """Takes a message of another group, if it is the next one. Returns the code of the error, or ""."""
    taken = model.taken.get(command.group, 0)
    if command.number > taken + 1:
        return "invalid-argument"
    if command.number == taken + 1:
        model.taken[command.group] = command.number
        if isinstance(command.message, broker.Decision):
            _decide(model, command.group, command.message)
        else:
            _answer(model, command.group, command.message)
    return ""


def confirm(model: Model, command: broker.Confirm) -> None:
    """Another group has the messages up to this number."""
    model.outbox = [one for one in model.outbox if one[0] != command.group or one[1] > command.number]


def is_decided_here(model: Model, command: broker.GroupMessage) -> bool:
    """Whether the message is the next one, and ends a transaction that is open here."""
    message = command.message
    one = model.transactions.get(message.transaction)
    is_next = command.number == model.taken.get(command.group, 0) + 1
    is_ours = one is not None and (one.epoch, one.coordinator) == (message.epoch, command.group)
    return is_next and is_ours and isinstance(message, broker.Decision)


def _decide(model: Model, source: int, decision: broker.Decision) -> None:
    one, finished = model.transactions.get(decision.transaction), model.finished.get(decision.transaction)
    if one is not None:
        if (one.epoch, one.coordinator) != (decision.epoch, source):
            return
        if decision.is_committed:
            commit(model, broker.Commit(one.name, one.epoch, force=True))
        else:
            abort(model, broker.Abort(one.name, one.epoch))
    elif not decision.is_committed and (finished is None or finished.epoch < decision.epoch):
        model.finish(decision.transaction, decision.epoch, False)


def _answer(model: Model, source: int, inquiry: broker.Inquiry) -> None:
    one, finished = model.transactions.get(inquiry.transaction), model.finished.get(inquiry.transaction)
    if one is not None and one.epoch <= inquiry.epoch:
        return
    known = (inquiry.transaction, inquiry.epoch)
    for group, _, message in model.outbox:
        if isinstance(message, broker.Decision) and (group, message.transaction, message.epoch) == (source, *known):
            return
    if one is None and (finished is None or finished.epoch < inquiry.epoch):
        model.finish(inquiry.transaction, inquiry.epoch, False)
    is_committed = finished is not None and finished.epoch == inquiry.epoch and finished.is_committed
    model.send(source, broker.Decision(*known, is_committed))
