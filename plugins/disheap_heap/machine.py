"""The state machine `heap`: topics of messages in strict priority order, leases, consumers, exchanges.

This class decodes a command, calls its handler, and returns the reply and the pushes. The handlers are functions over
one `State`, in one module per concern. The machine is deterministic: no clock, no entropy, no files. A handler checks
first and changes after that, so a command that is refused has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import msgspec

from disheap.errors import CommandRefused, InvalidArgument, VersionUnsupported
from disheap.interfaces import Effects, MachineContext, Metric, Principal
from disheap.protocol import broker
from disheap.protocol.frames import UNREADABLE
from disheap_heap import measuring, queries, work
from disheap_heap.command_set import CommandSet, Handlers, tag_of, unreadable
from disheap_heap.commands import (
    barriers,
    consumers,
    enqueue,
    exchanges,
    relaying,
    sessions,
    topic_life,
    topics,
    values,
)
from disheap_heap.commands.dead_letters import publish_dead_letters
from disheap_heap.constants import CONSTANTS
from disheap_heap.delivery import leases
from disheap_heap.delivery.delivery import serve, serve_freed_groups
from disheap_heap.encoding import encode, known_tag
from disheap_heap.settings import HeapSettings
from disheap_heap.snapshots import restoring, snapshot
from disheap_heap.snapshots.discarding import discarding
from disheap_heap.state import footprint
from disheap_heap.state.counts import SERIES_MAX, Series
from disheap_heap.state.state import State
from disheap_heap.state.views import kept_bytes
from disheap_heap.transactions import atomic, group_messages, transactions

HANDLERS: Handlers = {
    broker.Enqueue: (1, enqueue.enqueue),
    broker.EnqueueMany: (1, enqueue.enqueue_many),
    broker.Publish: (1, enqueue.publish),
    broker.Subscribe: (1, consumers.subscribe),
    broker.SetCredit: (1, consumers.set_credit),
    broker.Cancel: (1, consumers.cancel),
    broker.Pop: (1, consumers.pop),
    broker.Ack: (1, leases.ack),
    broker.Nack: (1, leases.nack),
    broker.Extend: (1, leases.extend),
    broker.Recover: (1, leases.recover),
    broker.CreateTopic: (1, topics.create_topic),
    broker.DeleteTopic: (1, topics.delete_topic),
    broker.Purge: (1, topics.purge),
    broker.CreateExchange: (1, exchanges.create_exchange),
    broker.DeleteExchange: (1, exchanges.delete_exchange),
    broker.Bind: (1, exchanges.bind),
    broker.Unbind: (1, exchanges.unbind),
    broker.Batch: (1, atomic.batch),
    broker.Prepare: (1, transactions.prepare),
    broker.Commit: (1, transactions.commit),
    broker.Abort: (1, transactions.abort),
    broker.GroupMessage: (1, group_messages.take_message),
    broker.Confirm: (1, group_messages.confirm),
    broker.SetGroups: (1, group_messages.set_groups),
    broker.Overtake: (1, consumers.overtake),
    broker.SetValue: (1, values.set_value),
    broker.DeleteValues: (1, values.delete_values),
    broker.Watch: (1, values.watch),
    broker.Unwatch: (1, values.unwatch),
    broker.SetBarrier: (1, barriers.set_barrier),
    broker.CloseBarrier: (1, barriers.close_barrier),
    broker.UpdateTopic: (1, topic_life.update_topic),
    broker.PauseTopic: (1, topic_life.pause_topic),
}
"""(the `machine_version` since which the command exists, its handler). A command that was released never changes its
fields. A new form of it is a struct of its own with the same tag and a later version. It replaces the old form from
there on."""

OF_LEADERS = (broker.GroupMessage, broker.Confirm, broker.SetGroups)
"""Commands without a session. All others need one."""

QUERIES: dict[type, Callable[[State, int, Any], bytes]] = {
    broker.Peek: queries.peek,
    broker.Browse: queries.browse,
    broker.Explain: queries.explain,
    broker.DescribeTopic: queries.describe_topic,
    broker.ListTopics: queries.list_topics,
    broker.GetStats: queries.get_stats,
    broker.ListExchanges: queries.list_exchanges,
    broker.ListTransactions: queries.list_transactions,
    broker.GetValues: values.get_values,
    broker.GetParts: barriers.get_parts,
}

ADDS_CONTENT = (
    broker.Enqueue,
    broker.EnqueueMany,
    broker.Publish,
    broker.Batch,
    broker.Prepare,
    broker.SetValue,
    broker.SetBarrier,
    broker.Watch,
)
"""Commands that add messages, values, barriers or watches. All others are allowed while disk or memory is short,
because workers need them to empty the queues."""
ALLOWED_WHEN_FULL = frozenset(tag_of(kind) for kind in HANDLERS if kind not in ADDS_CONTENT)

PUBLISH_TAG = tag_of(broker.Publish)
QUERY_TAGS = {tag_of(kind): kind for kind in get_args(broker.Query)}

NOTHING: Effects = ()
COMMAND_OVERHEAD_BYTES = 4 << 10
"""The size of a command beside payload and headers: two names of 255 characters, four bytes each at most, a key, and
numbers."""


class HeapMachine:
    """Implements `disheap.interfaces.StateMachine`, `CommandSizing`, `FixedConstants`, `Screening`, `Relaying`,
    `AllowedWhenFull`, `SessionReporting`, `Hashing`, `Discarding`, `Forwarding`, `GroupKnowing`, `CrossChecking`,
    `MemoryEstimating`, `Measuring`, `WorkCounting`, `Sampling` and `SamplingQueries`."""

    name: ClassVar[str] = "heap"
    api: ClassVar[int] = 1
    versions: ClassVar[tuple[int, int]] = (1, 1)
    Settings: ClassVar[type[msgspec.Struct]] = HeapSettings

    @classmethod
    def max_command_bytes(cls, settings: HeapSettings) -> int:
        """The largest payload with the largest headers, and what a command needs around them."""
        return settings.payload_bytes + broker.HEADERS_BYTES_MAX + COMMAND_OVERHEAD_BYTES

    handlers: ClassVar[Handlers] = HANDLERS
    """The handlers of all versions. A later release, or a test, adds to them."""

    @classmethod
    def constants(cls, version: int) -> dict[str, int]:
        """The constants that decide replies and pushes in this version."""
        return CONSTANTS[max(since for since in CONSTANTS if since <= version)]

    def __init__(self, settings: HeapSettings, context: MachineContext) -> None:
        self._settings = settings
        self._group = context.group
        self._series_max = SERIES_MAX
        self._state = State(settings, context.group)
        self._use_commands_of(self.versions[0])

    def set_version(self, version: int) -> None:
        """Runs this version from now on."""
        lowest, highest = self.versions
        if not lowest <= version <= highest:
            raise VersionUnsupported(
                f"the state is of machine_version {version}, this release runs {lowest} to {highest}; install one that "
                "runs it and start again"
            )
        self._state.version = version
        self._use_commands_of(version)

    def _use_commands_of(self, version: int) -> None:
        self._commands = CommandSet(self.handlers, version)
        self._decode_command = self._commands.decoder.decode
        self._handlers = self._commands.handlers

    # --- what changes the state ---

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        """Decodes the command and passes it to its handler."""
        try:
            decoded = self._decode_command(command)
        except UNREADABLE as error:
            raise self._commands.refusal(command, error) from None
        if not session and not isinstance(decoded, OF_LEADERS):
            raise InvalidArgument(f"a {type(decoded).__name__} is for a client with a session; nothing was done")
        state = self._state
        if time_ms > state.now_ms:
            state.now_ms = time_ms
        effects = state.begin_call()
        reply = self._handlers[type(decoded)](state, session, decoded)
        if state.dying:
            publish_dead_letters(state, serve)
        if state.freed:
            serve_freed_groups(state)
        return reply, effects

    def advance(self, time_ms: int, limit: int) -> tuple[int, Effects]:
        """Fires the timers that are due, then does postponed work, at most `limit` units."""
        state = self._state
        if time_ms > state.now_ms:
            state.now_ms = time_ms
        effects = state.begin_call()
        return work.advance(state, limit), effects

    def session_opened(self, session: int, principal: Principal) -> None:
        """Registers the session and the name of its client's certificate."""
        sessions.open_session(self._state, session, principal.name)

    def session_attached(self, session: int, held: bytes) -> tuple[bytes, Effects]:
        """Attaches the session. The reply has the leases that `held` does not name."""
        try:
            named = broker.decode_held.decode(held) if held else broker.Held([])
        except UNREADABLE as error:
            raise InvalidArgument(
                f"an ATTACH that does not say what is held: {error}. It names at most {broker.HELD_MAX} leases, and "
                f"{broker.NAMED_MAX} pops and consumers; what it leaves out is sent again"
            ) from None
        effects = self._state.begin_call()
        reply = sessions.attach_session(self._state, session, named)
        serve_freed_groups(self._state)
        return reply, effects

    def session_detached(self, session: int) -> Effects:
        """Stops deliveries to the session."""
        sessions.detach_session(self._state, session)
        return NOTHING

    def session_expired(self, session: int) -> Effects:
        """Ends the session, in slices if it has much."""
        effects = self._state.begin_call()
        sessions.expire_session(self._state, session)
        publish_dead_letters(self._state, serve)
        serve_freed_groups(self._state)
        return effects

    # --- what reads the state ---

    def backlog(self) -> bool:
        """Whether work is postponed."""
        return work.backlog(self._state)

    def next_deadline(self) -> int | None:
        """The earliest timer."""
        return self._state.timers.next_deadline()

    def admits(self, command: bytes) -> bool:
        """Whether a transient command is worth an entry in the log. It is not if no topic would get its message, or if
        it would be refused."""
        try:
            decoded = self._decode_command(command)
        except UNREADABLE:
            return False
        if isinstance(decoded, broker.Publish):
            try:
                headers = decoded.message.encoded_headers
                return bool(exchanges.find_topics(self._state, decoded.exchange, decoded.routing_key, headers))
            except CommandRefused:
                return False
        if isinstance(decoded, broker.Enqueue | broker.EnqueueMany):
            return decoded.topic in self._state.topics
        return True

    def relay(self, time_ms: int, command: bytes) -> Effects | None:
        """The pushes of a publish that no topic would keep."""
        if known_tag(command) != PUBLISH_TAG:
            return None
        try:
            decoded = self._decode_command(command)
        except UNREADABLE:
            return None
        return relaying.relay(self._state, time_ms, decoded) if isinstance(decoded, broker.Publish) else None

    def allowed_when_full(self, command: bytes) -> bool:
        """False for commands that add messages, and for bytes that are not a command."""
        return known_tag(command) in ALLOWED_WHEN_FULL

    def query(self, time_ms: int, session: int, request: bytes) -> bytes:
        """Decodes the query and passes it to its handler."""
        try:
            decoded = broker.decode_query.decode(request)
        except UNREADABLE as error:
            raise unreadable(request, error, QUERY_TAGS, "query") from None
        return QUERIES[type(decoded)](self._state, session, decoded)

    def session_stats(self, session: int) -> dict[str, int]:
        """How many leases, consumers and exclusive topics the session has."""
        return queries.session_stats(self._state, session)

    def snapshot(self) -> Iterator[bytes]:
        """A view of the present state."""
        return snapshot.take(self._state)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replaces the state by that of a snapshot."""
        self._state = restoring.restore(self._settings, self._group, chunks, self._series_max)

    def discarding(self) -> Iterator[None]:
        """Frees the state in slices."""
        return discarding(self._state)

    def state_hash(self) -> bytes:
        """A hash of the snapshot's bytes."""
        return snapshot.state_hash(self._state)

    def hashing(self) -> Iterator[bytes]:
        """The pieces of a snapshot, which are equal on all replicas."""
        return snapshot.take(self._state)

    def waiting(self) -> dict[int, int]:
        """How many messages wait for other groups."""
        return self._state.outbox.waiting()

    def outbox(self, group: int, after: int, limit: int) -> list[tuple[int, bytes]]:
        """The messages that wait for a group, as commands."""
        return self._state.outbox.listed(self._group, group, after, limit)

    def forget(self, group: int, number: int) -> bytes:
        """The command that forgets the messages for a group up to a number."""
        return encode(broker.Confirm(group, number))

    def know_groups(self, groups: Sequence[int]) -> bytes | None:
        """The command that tells which groups take messages."""
        return None if self._state.groups == tuple(groups) else encode(broker.SetGroups(list(groups)))

    def told(self) -> Iterable[tuple[int, bytes]]:
        """The COMMITs that this group has decided for others, as far as it remembers them."""
        return group_messages.told(self._state)

    def lacks(self, message: bytes) -> str:
        """The name of the transaction, if this group can neither carry it out nor has done so."""
        return group_messages.lacks(self._state, message)

    def renumber(self) -> None:
        """All groups begin anew. What waits is sent again, and changes nothing if it was taken."""
        transactions.renumber(self._state)

    def sample_commands(self) -> list[bytes]:
        """Commands for the conformance suite."""
        from disheap_heap.samples import sample_commands

        return sample_commands()

    def work_done(self) -> int:
        """Units of work of all calls so far."""
        return self._state.units

    def memory_bytes(self) -> int:
        """An estimate of the memory that the state takes."""
        return footprint.memory_bytes(self._state) + kept_bytes(self._state)

    def sample_queries(self) -> list[bytes]:
        """Queries for the conformance suite."""
        from disheap_heap.samples import sample_queries

        return sample_queries()

    def limit_series(self, series_max: int) -> None:
        """Sets how many topics are counted one by one."""
        self._series_max = series_max
        self._state.series = Series(series_max)

    def metrics(self, time_ms: int) -> list[Metric]:
        """Depths, ages, events and waiting times, by topic."""
        return measuring.metrics(self._state, time_ms)

    def list_stats(self, time_ms: int, prefix: str, after: str, limit: int) -> tuple[list[dict[str, Any]], int]:
        """A page of topics."""
        return measuring.list_stats(self._state, time_ms, prefix, after, limit)

    def stats(self) -> dict[str, int]:
        """Counters for `disheap status`."""
        state = self._state
        return {
            "enqueued": state.last_message,
            "delivered": state.delivered,
            "settled": state.settled,
            "returned": state.returned,
            "expired": state.expired,
            "dropped": state.dropped,
            "dead_lettered": state.dead_lettered,
            **queries.counted(state),
            "sessions": len(state.sessions),
            "timers": len(state.timers),
            "postponed": sum(map(len, work.postponed(state))),
        }


if TYPE_CHECKING:
    from disheap.interfaces import (
        AllowedWhenFull,
        CommandSizing,
        CrossChecking,
        Discarding,
        FixedConstants,
        Forwarding,
        GroupKnowing,
        Hashing,
        Measuring,
        MemoryEstimating,
        Relaying,
        Sampling,
        SamplingQueries,
        Screening,
        SessionReporting,
        StateMachine,
        WorkCounting,
    )

    _fits: type[StateMachine] = HeapMachine
    _sizes: type[CommandSizing] = HeapMachine
    _names_constants: type[FixedConstants] = HeapMachine
    _screens: type[Screening] = HeapMachine
    _relays: type[Relaying] = HeapMachine
    _is_allowed: type[AllowedWhenFull] = HeapMachine
    _reports: type[SessionReporting] = HeapMachine
    _hashes: type[Hashing] = HeapMachine
    _discards: type[Discarding] = HeapMachine
    _forwards: type[Forwarding] = HeapMachine
    _knows_groups: type[GroupKnowing] = HeapMachine
    _is_checked: type[CrossChecking] = HeapMachine
    _estimates: type[MemoryEstimating] = HeapMachine
    _measures: type[Measuring] = HeapMachine
    _counts_work: type[WorkCounting] = HeapMachine
    _samples: type[Sampling] = HeapMachine
    _samples_queries: type[SamplingQueries] = HeapMachine
