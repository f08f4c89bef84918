"""Two-phase commit between groups: what the coordinator's group and the participants tell each other.

The coordinator's group puts its decision into the outbox for each participant. The node sends it until the participant
has confirmed it. A participant that waits for long asks. The coordinator's group answers from its table. A transaction
that it does not know is aborted (presumed abort: Mohan, Lindsay, *Transaction Management in R\\**, 1986). It prepares
before every participant, so it does not know a transaction only if it has ended, or was lost with a backup.

An answer can be wrong about a transaction that ended so long ago that its outcome is forgotten. Messages arrive in
their order, and the decision was sent before the answer. So the participant has ended the transaction by then. This
does not hold for groups that were restored from different moments. A participant of an earlier moment aborts what the
others have committed, if `finished_transactions` others ended in the coordinator's group between the two.
"""

from __future__ import annotations

from collections.abc import Iterator

from disheap.errors import InvalidArgument
from disheap.protocol.broker import Confirm, Decision, GroupMessage, Inquiry, SetGroups, decode_command
from disheap_heap.encoding import DONE, encode
from disheap_heap.state.prepared import Finished
from disheap_heap.state.state import State
from disheap_heap.state.views import keep_confirmed
from disheap_heap.transactions.transactions import carry_out, give_up


def take_message(state: State, session: int, command: GroupMessage) -> bytes:
    """Takes a message of another group once, and in order."""
    _require_leader(session)
    taken = state.outbox.taken(command.group)
    if command.number > taken + 1:
        raise InvalidArgument(
            f"message {command.number} of group {command.group} came, and the last one before it was {taken}. Nothing "
            "was done; it is sent again after the ones that are missing"
        )
    if command.number == taken + 1:
        state.outbox.take(command.group, command.number)
        message = command.message
        if isinstance(message, Decision):
            _decide(state, command.group, message)
        else:
            _answer(state, command.group, message)
    return DONE


def confirm(state: State, session: int, command: Confirm) -> bytes:
    """Forgets the messages that another group has."""
    _require_leader(session)
    state.units += state.outbox.count(command.group) // 16
    confirmed = state.outbox.confirm(command.group, command.number)
    if state.views:
        keep_confirmed(state, command.group, confirmed)
    return DONE


def set_groups(state: State, session: int, command: SetGroups) -> bytes:
    """These groups take messages. What waits for another one goes on waiting: it may come back."""
    _require_leader(session)
    state.groups = tuple(command.groups)
    return DONE


def told(state: State) -> Iterator[tuple[int, bytes]]:
    """(participant, message) of each COMMIT that this group has decided and remembers, whether it was sent or not."""
    for name, outcome in state.transactions.finished.items():
        decision = Decision(name, outcome.epoch, True)
        for group, number in outcome.told:
            yield group, encode(GroupMessage(state.group, number, decision))


def lacks(state: State, message: bytes) -> str:
    """The name of the transaction that this group has not prepared, although the other group has committed it."""
    command = decode_command.decode(message)
    assert isinstance(command, GroupMessage)
    name, epoch = command.message.transaction, command.message.epoch
    transaction, finished = state.transactions.open.get(name), state.transactions.finished.get(name)
    is_prepared = transaction is not None and (transaction.epoch, transaction.coordinator) == (epoch, command.group)
    is_committed = finished is not None and finished.epoch == epoch and finished.is_committed
    was_taken = command.number <= state.outbox.taken(command.group)
    return "" if is_prepared or is_committed or was_taken else name


def _require_leader(session: int) -> None:
    if session:
        raise InvalidArgument("only the leaders of groups say this to each other, and no client; nothing was done")


def _decide(state: State, source: int, decision: Decision) -> None:
    """A decision that is late, or for another epoch, changes nothing. An abort that comes before its PREPARE is
    remembered."""
    table = state.transactions
    transaction = table.open.get(decision.transaction)
    if transaction is not None:
        if transaction.epoch == decision.epoch and transaction.coordinator == source:
            (carry_out if decision.is_committed else give_up)(state, transaction)
        return
    finished = table.finished.get(decision.transaction)
    if not decision.is_committed and (finished is None or finished.epoch < decision.epoch):
        table.remember(decision.transaction, Finished(decision.epoch, False), state.settings.finished_transactions)


def _answer(state: State, source: int, inquiry: Inquiry) -> None:
    """Nothing is answered while the transaction is open, or an earlier attempt is, or while a decision is under way.
    An abort of what is not known is remembered before it is told: a PREPARE that comes later is refused."""
    table, name, epoch = state.transactions, inquiry.transaction, inquiry.epoch
    transaction = table.open.get(name)
    is_open = transaction is not None and transaction.epoch <= epoch
    if is_open or state.outbox.is_decision_waiting(source, name, epoch):
        return
    finished = table.finished.get(name)
    if transaction is None and (finished is None or finished.epoch < epoch):
        table.remember(name, Finished(epoch, False), state.settings.finished_transactions)
    is_committed = finished is not None and finished.epoch == epoch and finished.is_committed
    state.outbox.put(source, Decision(name, epoch, is_committed))
