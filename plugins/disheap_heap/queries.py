"""Queries: they read the state and change nothing. Each answer is bounded, however large the state is."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice

import msgspec

from disheap.protocol.broker import (
    Browse,
    Browsed,
    DescribeTopic,
    ExchangeInfos,
    Explain,
    Explained,
    GetStats,
    Holder,
    ListExchanges,
    ListTopics,
    ListTransactions,
    Peek,
    Peeked,
    PeekedMessage,
    Stats,
    TopicInfos,
    TransactionInfo,
    TransactionInfos,
)
from disheap_heap.commands.checks import find_existing, require_access
from disheap_heap.commands.exchanges import find_exchange
from disheap_heap.commands.topics import describe
from disheap_heap.encoding import encode
from disheap_heap.settings import ARGUMENTS_PER_ANSWER, MAX_ANSWER_BYTES
from disheap_heap.state.messages import Content, Message
from disheap_heap.state.prepared import Transaction
from disheap_heap.state.routing import Exchange
from disheap_heap.state.state import Consumer, State, Topic

IDS_PER_PAGE = 8192
"""Ids that one page looks at, if few of them are of messages that it shows: 5 ms."""


def peek(state: State, session: int, query: Peek) -> bytes:
    """The first messages of a topic in the order of delivery; then, if asked for, delayed and leased ones. Delayed
    messages come in the order in which they were delayed, and after a restart in the order of arrival. Leased messages
    come by consumer, the oldest lease first."""
    topic = find_existing(state, query.topic)
    require_access(topic, session)
    messages: list[PeekedMessage] = []
    room = MAX_ANSWER_BYTES
    for message in islice(_waiting(topic, query), query.count):
        room -= _size(message)
        if room < 0 and messages:
            break
        messages.append(message)
    return encode(Peeked(messages))


def browse(state: State, session: int, query: Browse) -> bytes:
    """One page of the messages of a topic, in the order of their ids. It ends early if the messages are large, and if
    few of the ids that it looked at belong to messages that are shown."""
    topic = find_existing(state, query.topic)
    require_access(topic, session)
    messages: list[PeekedMessage] = []
    room, looked, after = MAX_ANSWER_BYTES, 0, query.after
    for chunk in _chunks(topic, query.after):
        if looked >= IDS_PER_PAGE:
            return encode(Browsed(messages, after))
        looked += len(chunk)
        for message in _in_chunk(state, topic, chunk, query):
            room -= _size(message)
            if messages and (room < 0 or len(messages) == query.limit):
                return encode(Browsed(messages, messages[-1].id))
            messages.append(message)
        after = chunk[-1]
    return encode(Browsed(messages))


def explain(state: State, session: int, query: Explain) -> bytes:
    """Where a message is, how many are ahead of it, and who could take it."""
    topic, number = find_existing(state, query.topic), query.id
    require_access(topic, session)
    active = [one for one in topic.consumers.values() if not one.ended]
    counts = (state.now_ms, len(topic.ready), len(active), sum(one.can_receive() for one in active))
    if (message := topic.ready.by_id().get(number)) is not None:
        shown = _peeked(topic, message, "ready")
        found = Explained(
            "ready",
            *counts,
            ahead=topic.ready.count_before(message),
            expires_at_ms=message.expires_at_ms,
            message=shown,
        )
    elif (delayed := topic.delayed.get(number)) is not None:
        due_ms, message = delayed[0], delayed[1]
        shown = _peeked(topic, message, "delayed", due_ms)
        found = Explained("delayed", *counts, expires_at_ms=message.expires_at_ms, message=shown)
    elif (lease := state.leases.get(number)) is not None and lease.consumer.topic is topic:
        shown = _peeked(topic, lease.message.after(lease.epoch), "leased", 0, lease.consumer)
        holder = lease.consumer.session
        found = Explained(
            "leased", *counts, lease_until_ms=lease.until_ms, connected=holder.attached,
            expires_at_ms=lease.message.expires_at_ms, message=shown,
        )  # fmt: skip
    elif (frozen := state.transactions.frozen.get(number)) is not None and frozen.topic == topic.number:
        found = Explained("frozen", *counts)
    else:
        found = Explained("", *counts)
    if topic.holds_back:
        found = msgspec.structs.replace(found, deliveries_paused=True)
    return encode(found)


def describe_topic(state: State, session: int, query: DescribeTopic) -> bytes:
    """The settings and counts of one topic, and which consumers hold its messages."""
    topic = find_existing(state, query.topic)
    if query.require_access:
        require_access(topic, session)
    info = describe(topic)
    if query.holders and topic.leased:
        holding = (one for one in topic.consumers.values() if one.leases)
        rows = [Holder(one.session.number, one.number, len(one.leases)) for one in islice(holding, query.holders)]
        info = msgspec.structs.replace(info, holders=rows)
    return encode(info)


def list_topics(state: State, session: int, query: ListTopics) -> bytes:
    """One page of topics, in the order of names, and how many match the prefix."""
    names, prefix = state.topic_names, query.prefix
    first = bisect_left(names, prefix)
    end = bisect_right(names, prefix, first, key=lambda name: name[: len(prefix)])
    start = max(first, bisect_right(names, query.after, 0, end)) if query.after else first
    infos = [describe(state.topics[name]) for name in names[start : min(end, start + query.limit)]]
    return encode(TopicInfos(infos, end - first))


def get_stats(state: State, session: int, query: GetStats) -> bytes:
    """Counts over the whole cluster."""
    return encode(Stats(**counted(state), time_ms=state.now_ms))


def counted(state: State) -> dict[str, int]:
    """How many records of each kind exist now. A pop counts while it waits. A consumer that has ended and still holds
    messages does not count."""
    return {
        "topics": len(state.topics),
        "exchanges": len(state.exchanges),
        "bindings": state.bindings,
        "consumers": state.subscribers,
        "pops": state.active - state.subscribers,
        "ready": state.ready,
        "delayed": state.delayed,
        "leased": len(state.leases),
        "message_bytes": state.message_bytes,
        "transactions": len(state.transactions.open),
        "prepared": state.transactions.prepared,
        "frozen": len(state.transactions.frozen),
        "forwarding": len(state.outbox),
        "values": len(state.values.by_number),
        "value_bytes": state.values.size,
        "watches": state.values.watches,
        "barriers": len(state.values.barriers),
    }


def session_stats(state: State, number: int) -> dict[str, int]:
    """What a session holds, for `disheap session ls`."""
    session = state.sessions.get(number)
    consumers = list(session.consumers.values()) if session is not None else []
    return {
        "leases": sum(len(consumer.leases) for consumer in consumers),
        "consumers": sum(not consumer.ended and not consumer.limit for consumer in consumers),
        "exclusive_topics": len(session.owned) if session is not None else 0,
        "watches": len(session.watches) if session is not None else 0,
    }


def list_transactions(state: State, session: int, query: ListTransactions) -> bytes:
    """One page of open transactions, or the one named, or how that one ended."""
    table = state.transactions
    if not query.transaction:
        page = islice(table.open.values(), query.skip, query.skip + query.limit)
        return encode(TransactionInfos([_transaction_info(one) for one in page], len(table.open)))
    found, finished = table.open.get(query.transaction), table.finished.get(query.transaction)
    if found is not None:
        return encode(TransactionInfos([_transaction_info(found)], 1))
    if finished is None:
        return encode(TransactionInfos([], 0))
    outcome = "committed" if finished.is_committed else "aborted"
    return encode(TransactionInfos([], 0, outcome, finished.first, finished.messages))


def _transaction_info(one: Transaction) -> TransactionInfo:
    times = (one.prepared_ms, one.deadline_ms)
    return TransactionInfo(
        one.name, one.epoch, one.session, *times, len(one.messages), one.size, len(one.frozen),
        list(one.participants), one.coordinator,
    )  # fmt: skip


def list_exchanges(state: State, session: int, query: ListExchanges) -> bytes:
    """One page of exchanges and bindings, and how many there are."""
    chosen: list[Exchange[Topic]] = list(state.exchanges.values())
    if query.exchange:
        chosen = [find_exchange(state, query.exchange)]
    infos = ExchangeInfos([], [], len(chosen) + sum(len(exchange.bindings) for exchange in chosen))
    skip, left, room = query.skip, query.limit, ARGUMENTS_PER_ANSWER
    for one in chosen:
        if left <= 0:
            break
        rows = 1 + len(one.bindings)
        if skip >= rows:
            skip -= rows
            continue
        if not skip:
            infos.exchanges.append((one.name, one.kind))
            if one.alternate:
                infos.alternates[one.name] = one.alternate
        first = max(0, skip - 1)
        for (key, _, arguments), topic in islice(one.bindings.items(), first, first + left - (not skip)):
            room -= len(arguments)
            if room < 0:
                return encode(infos)
            infos.bindings.append((one.name, topic.name, key, arguments))
        left -= rows - skip
        skip = 0
    return encode(infos)


def _chunks(topic: Topic, after: int) -> Iterator[list[int]]:
    """The ids of a topic above `after`, in their order. Some are of messages that are gone."""
    chunks = [*topic.arrivals.chunks, topic.arrivals.tail]
    for chunk in chunks[bisect_right(chunks, after, 0, len(chunks) - 1, key=lambda one: one[-1]) :]:
        rest = chunk[bisect_right(chunk, after) :]
        if rest:
            yield rest


def _in_chunk(state: State, topic: Topic, ids: list[int], query: Browse) -> Iterator[PeekedMessage]:
    ready = topic.ready.by_id().found(ids) if query.ready else {}
    delayed = topic.delayed.found(ids) if query.delayed and topic.delayed else {}
    leased = state.leases.found(ids) if query.leased and topic.leased else {}
    for number in ids:
        if (message := ready.get(number)) is not None:
            yield _peeked(topic, message, "ready")
        elif (waiting := delayed.get(number)) is not None:
            yield _peeked(topic, waiting[1], "delayed", waiting[0])
        elif (lease := leased.get(number)) is not None:
            yield _peeked(topic, lease.message.after(lease.epoch), "leased", 0, lease.consumer)


def _size(message: PeekedMessage) -> int:
    return len(message.payload) + len(message.encoded_headers) + len(message.key) + 64


def _waiting(topic: Topic, query: Peek) -> Iterator[PeekedMessage]:
    for message in topic.ready.smallest(query.count) if query.ready else ():
        yield _peeked(topic, message, "ready")
    if query.delayed:
        for due_ms, message in topic.delayed.values():
            yield _peeked(topic, message, "delayed", due_ms)
    if query.leased:
        for consumer in topic.consumers.values():
            for lease in consumer.leases.values():
                yield _peeked(topic, lease.message.after(lease.epoch), "leased", 0, consumer)


def _peeked(
    topic: Topic, message: Message, state: str, due_ms: int = 0, holder: Consumer | None = None
) -> PeekedMessage:
    priority = message.rank * topic.sign
    body = message.body
    content = body if type(body) is Content else Content(body, b"", "")  # type: ignore[arg-type]
    shown = (message.id, priority, message.attempts, message.enqueued_ms, state, due_ms)
    held_by = (holder.session.number, holder.number) if holder is not None else (0, 0)
    body_fields = (content.payload, content.encoded_headers, content.key)
    return PeekedMessage(*shown, *body_fields, *held_by, message.expires_at_ms)
