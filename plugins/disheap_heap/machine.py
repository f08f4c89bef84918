"""The state machine `heap`: topics of messages in strict priority order, leases, consumers, exchanges.

This class is the door. It decodes a command, finds who carries it out, and collects what is to be pushed; the work lies
in the modules beside it, one per concern, as functions over one `State`. Deterministic: no clock, no entropy, no files.
A handler checks first and changes after, so that a command that is refused has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import msgspec

from disheap.errors import CommandRefused, InvalidArgument, UnknownCommand, VersionUnsupported
from disheap.interfaces import Effects, MachineContext, Principal
from disheap.protocol import broker
from disheap.protocol.frames import UNREADABLE
from disheap_heap import consumers, enqueue, exchanges, footprint, leases, queries, snapshot, topics, work
from disheap_heap.delivery import serve_freed
from disheap_heap.settings import HeapSettings
from disheap_heap.state import State
from disheap_heap.words import known_tag

Handler = Callable[[State, int, Any], bytes]
"""(state, session, command) -> reply"""

HANDLERS: dict[type, Handler] = {
    broker.Enqueue: enqueue.enqueue,
    broker.EnqueueMany: enqueue.enqueue_many,
    broker.Publish: enqueue.publish,
    broker.Subscribe: consumers.subscribe,
    broker.SetCredit: consumers.set_credit,
    broker.Cancel: consumers.cancel,
    broker.Pop: consumers.pop,
    broker.Ack: leases.ack,
    broker.Nack: leases.nack,
    broker.Extend: leases.extend,
    broker.Recover: leases.recover,
    broker.CreateTopic: topics.create_topic,
    broker.DeleteTopic: topics.delete_topic,
    broker.Purge: topics.purge,
    broker.CreateExchange: exchanges.create_exchange,
    broker.DeleteExchange: exchanges.delete_exchange,
    broker.Bind: exchanges.bind,
    broker.Unbind: exchanges.unbind,
}

QUERIES: dict[type, Callable[[State, int, Any], bytes]] = {
    broker.Peek: queries.peek,
    broker.DescribeTopic: queries.describe_topic,
    broker.ListTopics: queries.list_topics,
    broker.GetStats: queries.get_stats,
    broker.ListExchanges: queries.list_exchanges,
}

COMMAND_TAGS = {kind.__struct_config__.tag: kind for kind in get_args(broker.Command)}
BRINGS_IN = (broker.Enqueue, broker.EnqueueMany, broker.Publish)
"""Commands with payloads. All others pass while disk or memory is short: workers need them to drain the queues."""
ALLOWED_WHEN_FULL = frozenset(tag for tag, kind in COMMAND_TAGS.items() if kind not in BRINGS_IN)

QUERY_TAGS = {kind.__struct_config__.tag: kind for kind in get_args(broker.Query)}

NOTHING: Effects = ()
COMMAND_OVERHEAD_BYTES = 16 << 10
"""Of a command beside its payload: two names of 255 characters, four bytes each at most, and numbers."""


class HeapMachine:
    """Implements `disheap.interfaces.StateMachine`, `CommandSizing`, `Screening`, `AllowedWhenFull`,
    `SessionReporting`, `Hashing`, `MemoryEstimating`, `WorkCounting`, `Sampling` and `SamplingQueries`."""

    name: ClassVar[str] = "heap"
    api: ClassVar[int] = 1
    versions: ClassVar[tuple[int, int]] = (1, 1)
    Settings: ClassVar[type[msgspec.Struct]] = HeapSettings

    @classmethod
    def max_command_bytes(cls, settings: HeapSettings) -> int:
        """The largest payload, and what a command needs around it."""
        return settings.payload_bytes + COMMAND_OVERHEAD_BYTES

    def __init__(self, settings: HeapSettings, context: MachineContext) -> None:
        self._settings = settings
        self._state = State(settings)

    def set_version(self, version: int) -> None:
        """Runs this version from now on."""
        lowest, highest = self.versions
        if not lowest <= version <= highest:
            raise VersionUnsupported(
                f"the state is of machine_version {version}, this release runs {lowest} to {highest}; install one that "
                "runs it and start again"
            )
        self._state.version = version

    # --- what changes the state ---

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        """Decodes the command and passes it to its handler."""
        try:
            decoded = broker.decode_command.decode(command)
        except UNREADABLE as error:
            raise _unreadable(command, error, COMMAND_TAGS, "command") from None
        state = self._state
        if time_ms > state.now_ms:
            state.now_ms = time_ms
        effects = state.start()
        reply = HANDLERS[type(decoded)](state, session, decoded)
        if state.freed:
            serve_freed(state)
        return reply, effects

    def advance(self, time_ms: int, limit: int) -> tuple[int, Effects]:
        """Fires the timers that are due, then does postponed work, at most `limit` units."""
        state = self._state
        if time_ms > state.now_ms:
            state.now_ms = time_ms
        effects = state.start()
        return work.advance(state, limit), effects

    def session_opened(self, session: int, principal: Principal) -> None:
        """Registers the session and the name of its client's certificate."""
        consumers.opened(self._state, session, principal.name)

    def session_attached(self, session: int, held: bytes) -> tuple[bytes, Effects]:
        """Attaches the session. The reply has the leases that `held` does not name."""
        try:
            named = broker.decode_held.decode(held) if held else broker.Held([])
        except UNREADABLE as error:
            raise InvalidArgument(f"an ATTACH that does not say what is held: {error}") from None
        effects = self._state.start()
        reply = consumers.attached(self._state, session, named)
        serve_freed(self._state)
        return reply, effects

    def session_detached(self, session: int) -> Effects:
        """Takes the session's consumers out of their rings."""
        consumers.detached(self._state, session)
        return NOTHING

    def session_expired(self, session: int) -> Effects:
        """Ends the session, in slices if it has much."""
        effects = self._state.start()
        consumers.expired(self._state, session)
        serve_freed(self._state)
        return effects

    # --- what looks at it ---

    def backlog(self) -> bool:
        """Whether work is postponed."""
        return work.backlog(self._state)

    def next_deadline(self) -> int | None:
        """The earliest timer."""
        return self._state.timers.next_deadline()

    def admits(self, command: bytes) -> bool:
        """A transient message that no topic waits for is not worth the log; nor is one that would be refused."""
        try:
            decoded = broker.decode_command.decode(command)
        except UNREADABLE:
            return False
        if isinstance(decoded, broker.Publish):
            try:
                return bool(exchanges.find_topics(self._state, decoded.exchange, decoded.routing_key))
            except CommandRefused:
                return False
        if isinstance(decoded, broker.Enqueue | broker.EnqueueMany):
            return decoded.topic in self._state.topics
        return True

    def allowed_when_full(self, command: bytes) -> bool:
        """False for Enqueue, EnqueueMany and Publish, and for bytes that are not a command."""
        return known_tag(command) in ALLOWED_WHEN_FULL

    def query(self, time_ms: int, session: int, request: bytes) -> bytes:
        """Decodes the query and passes it to its handler."""
        try:
            decoded = broker.decode_query.decode(request)
        except UNREADABLE as error:
            raise _unreadable(request, error, QUERY_TAGS, "query") from None
        return QUERIES[type(decoded)](self._state, session, decoded)

    def session_stats(self, session: int) -> dict[str, int]:
        """How many leases, consumers and exclusive topics the session has."""
        return queries.session_stats(self._state, session)

    def snapshot(self) -> Iterator[bytes]:
        """A view of the present state."""
        return snapshot.take(self._state)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replaces the state by that of a snapshot."""
        self._state = snapshot.restore(self._settings, chunks)

    def state_hash(self) -> bytes:
        """A hash of the snapshot's bytes."""
        return snapshot.state_hash(self._state)

    def hashing(self) -> Iterator[bytes]:
        """The pieces of a snapshot, which are equal on all replicas."""
        return snapshot.take(self._state)

    def sample_commands(self) -> list[bytes]:
        """Commands for the conformance suite."""
        from disheap_heap.samples import sample_commands

        return sample_commands()

    def work_done(self) -> int:
        """Units of work of all calls so far."""
        return self._state.units

    def memory_bytes(self) -> int:
        """An estimate of the memory that the state takes."""
        return footprint.memory_bytes(self._state)

    def sample_queries(self) -> list[bytes]:
        """Queries for the conformance suite."""
        from disheap_heap.samples import sample_queries

        return sample_queries()

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
            **queries.counted(state),
            "sessions": len(state.sessions),
            "timers": len(state.timers),
            "postponed": sum(map(len, work.postponed(state))),
        }


def _unreadable(body: bytes, error: Exception, tags: dict[Any, Any], what: str) -> CommandRefused:
    """What is wrong with a body that does not decode, as precisely as can be told."""
    if not isinstance(error, msgspec.ValidationError):
        return UnknownCommand(f"a {what} that is not one whole msgpack value: {error}")
    tag = known_tag(body)
    if tag in tags:
        return InvalidArgument(_misfit(tags[tag], str(error)))
    return UnknownCommand(f"a {what} with the tag {tag!r} is not known to this version; upgrade the nodes")


def _misfit(kind: Any, error: str) -> str:
    """msgspec tells the place by number, after the tag; people know the field by its name."""
    reason, _, place = error.partition(" - at `$[")
    number = place.partition("]")[0]
    fields = kind.__struct_fields__
    if number.isdigit() and 0 < int(number) <= len(fields):
        rest = place.partition("]")[2].rstrip("`")
        return f"{fields[int(number) - 1]}{rest} of {kind.__name__} does not fit: {reason}"
    return f"a field of {kind.__name__} does not fit: {error}"


if TYPE_CHECKING:
    from disheap.interfaces import (
        AllowedWhenFull,
        CommandSizing,
        Hashing,
        MemoryEstimating,
        Sampling,
        SamplingQueries,
        Screening,
        SessionReporting,
        StateMachine,
        WorkCounting,
    )

    _fits: type[StateMachine] = HeapMachine
    _sizes: type[CommandSizing] = HeapMachine
    _screens: type[Screening] = HeapMachine
    _is_allowed: type[AllowedWhenFull] = HeapMachine
    _reports: type[SessionReporting] = HeapMachine
    _hashes: type[Hashing] = HeapMachine
    _estimates: type[MemoryEstimating] = HeapMachine
    _counts_work: type[WorkCounting] = HeapMachine
    _samples: type[Sampling] = HeapMachine
    _samples_queries: type[SamplingQueries] = HeapMachine
