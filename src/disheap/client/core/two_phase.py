"""Two-phase commit as a client drives it: a batch whose parts are for clients of several groups, all or nothing.

Owns the order of the steps and what each failure means. Sends nothing: `steps` yields the calls of one step, and is
sent what each of them came to. The client that has the lowest group holds the coordinator's record. Once COMMIT is
acknowledged there, the groups do the rest by themselves (docs/explanation/transactions.md).

The schedule that is prevented: a PREPARE has no answer in time, the client gives up, and the command arrives later. The
client then aborts in the coordinator's group, and never sends COMMIT. So whatever arrives later is aborted, too.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from disheap.client.core import faults
from disheap.errors import (
    ConnectionLost,
    DisheapError,
    NotSent,
    OutcomeUnknown,
    RequestTimeout,
    SessionExpired,
    TransactionNotFound,
    TransactionOver,
    renewed,
    reworded,
)
from disheap.protocol import broker

D = TypeVar("D")
Item = broker.Enqueue | broker.Publish | broker.Ack
Call = tuple[D, broker.Command | broker.Query]
"""A client's driver, and what it is to send."""

EPOCH = 1
"""A name is used for one attempt only."""
UNANSWERED = (RequestTimeout, OutcomeUnknown, SessionExpired, ConnectionLost)
"""Nobody knows what became of the one command. Of these, `NotSent` is known."""
TRANSACTION_TIMEOUT_MS = 30_000
"""How long the coordinator's group waits for COMMIT: as long as a client waits for a reply by default."""
RESULT_PAUSES_S = (0.0, *(0.0005 * 2**step for step in range(11)))
"""Before each question for the results of a participant, which may not have the decision yet. One second in all."""


class TwoPhase(Generic[D]):
    """One attempt. `parts` has the items for each group, at least two, with the driver of its client."""

    def __init__(self, name: str, parts: Mapping[int, tuple[D, Sequence[Item]]], timeout_ms: int) -> None:
        self._name = name
        self._groups = sorted(parts)
        self._parts = parts
        self._timeout_ms = timeout_ms
        self.is_aborted = False
        """After an error: nothing was done, and nothing will be."""
        self.untouched: list[D] = []
        """The drivers whose leases are as before, if there is an error in this step."""
        self.decided: dict[int, broker.Committed | None] | None = None
        """From the decision on: it is committed. What is known of the messages, by group."""
        self.pause_s = 0.0
        """To be waited before the calls of this step are made."""
        self._has_begun = False

    def steps(self) -> Generator[list[Call[D]], list[Any], dict[int, broker.Committed | None]]:
        """Yields the calls of a step, which may be made together, after `pause_s`. Is sent the reply of each, or its
        error. Returns what became of the messages by group; None if a group has not told it."""
        coordinator, *participants = self._groups
        yield from self._prepare([coordinator], participants)
        yield from self._prepare(participants, [])
        first = yield from self._decide()
        self.decided = {coordinator: first, **dict.fromkeys(participants)}
        yield from self._ask_results(self.decided, participants)
        return self.decided

    def _ask_results(
        self, results: dict[int, broker.Committed | None], groups: list[int]
    ) -> Generator[list[Call[D]], list[Any], None]:
        """Asks participants until they have carried out the decision, which the coordinator's group has sent them."""
        for pause_s in RESULT_PAUSES_S:
            self.pause_s = pause_s
            answers = yield [(self._parts[group][0], broker.ListTransactions(self._name)) for group in groups]
            found = {
                group: one for group, one in zip(groups, answers, strict=True) if not isinstance(one, BaseException)
            }
            results |= {group: _committed(one) for group, one in found.items()}
            groups = [group for group, one in found.items() if one.transactions]
            if not groups:
                return

    def left_over(self) -> list[Call[D]]:
        """What is to be sent, and not waited for, if nobody waits for a step any more: ABORT, unless COMMIT is decided.
        If COMMIT is under way, the one that comes first counts in all groups."""
        if not self._has_begun or self.decided is not None:
            return []
        return [(self._parts[self._groups[0]][0], broker.Abort(self._name, EPOCH))]

    def _prepare(self, groups: list[int], participants: list[int]) -> Generator[list[Call[D]], list[Any], None]:
        """In the coordinator's group, which has `participants`, or in all the others at once."""
        coordinator = self._groups[0]
        calls: list[Call[D]] = []
        for group in groups:
            driver, items = self._parts[group]
            if group == coordinator:
                command = broker.Prepare(self._name, EPOCH, self._timeout_ms, list(items), participants)
            else:
                command = broker.Prepare(self._name, EPOCH, 0, list(items), coordinator=coordinator)
            calls.append((driver, command))
        self._has_begun = True
        self.untouched = [self._parts[group][0] for group in self._groups if group > max(groups)]
        answers = yield calls
        errors = {group: one for group, one in zip(groups, answers, strict=True) if isinstance(one, BaseException)}
        if not errors:
            return
        undone = [group for group, error in errors.items() if isinstance(error, faults.NOTHING_DONE)]
        self.untouched = [self._parts[group][0] for group in self._groups if group in undone or group > max(groups)]
        self.is_aborted = True
        if coordinator not in undone:
            yield [(self._parts[coordinator][0], broker.Abort(self._name, EPOCH))]
        group, error = next(iter(errors.items()))
        raise _in_group(group, error)

    def _decide(self) -> Generator[list[Call[D]], list[Any], broker.Committed | None]:
        group = self._groups[0]
        driver = self._parts[group][0]
        (answer,) = yield [(driver, broker.Commit(self._name, EPOCH))]
        if isinstance(answer, TransactionOver):
            self.is_aborted = True
            raise _in_group(group, answer)
        if not isinstance(answer, BaseException):
            committed: broker.Committed = answer
            return committed
        if isinstance(answer, NotSent):
            self.is_aborted = True
            yield [(driver, broker.Abort(self._name, EPOCH))]
            raise _in_group(group, answer)
        if not isinstance(answer, DisheapError):
            raise answer
        (found,) = yield [(driver, broker.ListTransactions(self._name))]
        outcome = found.outcome if isinstance(found, broker.TransactionInfos) else ""
        if outcome == "committed":
            return _committed(found)
        if outcome == "aborted":
            self.is_aborted = True
            raise TransactionOver(f"transaction {self._name!r} is aborted: group {group} had no COMMIT in time")
        raise OutcomeUnknown(
            f"no answer to COMMIT of transaction {self._name!r} in group {group}: {answer}. It is committed or aborted "
            f"in all groups. Ask a client of group {group} for `transaction_outcome({self._name!r})`"
        )


def _committed(found: broker.TransactionInfos) -> broker.Committed | None:
    """As the reply to COMMIT, if it is committed."""
    return broker.Committed(found.first, found.count) if found.outcome == "committed" else None


def outcome_of(name: str, found: broker.TransactionInfos) -> str:
    """ "committed", "aborted" or "open". Raises `TransactionNotFound`."""
    if found.transactions:
        return "open"
    if not found.outcome:
        raise TransactionNotFound(
            f"there is no transaction {name!r} in this group. It never began here, or ended so long ago that its "
            "outcome is forgotten. Ask in the lowest group that takes part"
        )
    return found.outcome


def ids_of(items: Sequence[Item], reply: broker.Committed | None) -> list[int]:
    """A number for each item: 1 for an ack; of an enqueue the id of its message, or 0 if it is not told. It is told if
    the group has answered, no topic was deleted meanwhile, and no publish is among the items."""
    enqueued = sum(isinstance(item, broker.Enqueue) for item in items)
    is_plain = not any(isinstance(item, broker.Publish) for item in items)
    is_told = reply is not None and is_plain and reply.count == enqueued
    ids = iter(range(reply.first, reply.first + enqueued) if reply is not None and is_told else [0] * enqueued)
    return [next(ids) if isinstance(item, broker.Enqueue) else int(isinstance(item, broker.Ack)) for item in items]


def _in_group(group: int, error: BaseException) -> BaseException:
    """The error of one group, with the group's number in front. Where an answer is missing, the outcome is known all
    the same, and so the class is `TransactionOver`."""
    if not isinstance(error, DisheapError):
        return error
    text = f"group {group}: {error}. The batch is aborted in all groups"
    if isinstance(error, NotSent) or not isinstance(error, UNANSWERED):
        return reworded(error, text)
    over = TransactionOver(text)
    over.__cause__ = renewed(error)
    return over
