"""The open views of a state: how they are opened and closed, and what they are told before a record changes.

The state knows its views by weak references. A view ends when it is written (`View.freeing`), or when its writer drops
it. Callers of the `keep_...` functions check `state.views` first, which is nearly always empty.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from disheap_heap.state.footprint import RESEND_BYTES
from disheap_heap.state.view import View

if TYPE_CHECKING:
    from disheap_heap.state.messages import Message
    from disheap_heap.state.prepared import FrozenMessage
    from disheap_heap.state.state import (
        Consumer,
        CreditGroup,
        Delayed,
        Lease,
        PurgedMessages,
        Resend,
        Session,
        State,
        Topic,
    )
    from disheap_heap.state.values import Barrier, Value
    from disheap_heap.tables.partitioned import PartitionedDict

R = TypeVar("R")


def open_view(state: State) -> View:
    """Opens a view of the present state."""
    view = View(state)
    kept = view.kept

    def give_up(reference: weakref.ref[View]) -> None:
        """The view was dropped before its end. Its kept records are freed as postponed work."""
        if reference in state.views:
            close(reference)
            state.unfreed.append(kept)

    def close(reference: weakref.ref[View]) -> None:
        state.views = [one for one in state.views if one is not reference]  # a new list: it may end within a loop
        free = [purged for purged in state.purged_in_views if not any(one.reads(purged) for one in _open(state))]
        state.unfreed += free
        state.purged_in_views = [purged for purged in state.purged_in_views if not any(one is purged for one in free)]
        if not state.views:
            state.unfreed += state.resends_in_views
            state.resends_in_views = []

    reference = weakref.ref(view, give_up)
    view.end = partial(close, reference)
    state.views.append(reference)
    return view


def keep_place(state: State, topic: Topic, number: int, place: Message | Delayed) -> None:
    """Before a ready or delayed message leaves its place."""
    for reference in state.views:
        if (view := reference()) is not None:
            view.keep_place(topic, number, place)


def keep_dropped(state: State, messages: list[Message]) -> None:
    """Called when ready messages are dropped. Each is counted once, for the oldest view that has it."""
    last = 0
    for view in _open(state):
        last = view.keep_dropped(messages, state.copies, last)


def keep_lease(state: State, lease: Lease) -> None:
    """Before a lease ends or is extended."""
    _in_open_views(state, View.keep_lease, lease)


def keep_frozen(state: State, frozen: FrozenMessage) -> None:
    """Before a frozen message comes back to its topic."""
    for view in _open(state):
        view.keep_frozen(frozen)


def keep_message_bytes(state: State, number: int, memory_bytes: int) -> None:
    """Called when a message leaves the state or is replaced. An open view may still have the old one."""
    for reference in state.views:
        if (view := reference()) is not None and view.keep_message_bytes(number, memory_bytes):
            break  # counted once, for the oldest view that has it


def keep_confirmed(state: State, group: int, numbers: range) -> None:
    """Called when another group has confirmed messages. Each is counted once, for the oldest view that has it."""
    for view in _open(state):
        numbers = view.keep_confirmed(group, numbers)


def keep_record_bytes(state: State, record: Topic | Consumer | Session) -> None:
    """Called when a record leaves the state. The oldest view, which has a list of all, still has it."""
    for reference in state.views:  # no list of them: the end of a topic comes here thousands of times
        if (view := reference()) is not None:
            view.keep_record_bytes(record)
            break


def kept_bytes(state: State) -> int:
    """The bytes of memory that open views keep."""
    tokens = sum(resend.memory_records() for resend in state.resends_in_views)
    return RESEND_BYTES * tokens + sum(view.kept.memory_bytes() for view in _open(state))


def keep_purged(state: State, topic: Topic, purged: PurgedMessages) -> bool:
    """Before a topic is emptied by a purge. Returns whether a view reads them, which must then stay."""
    is_read = False
    for view in _open(state):
        is_read |= view.keep_purged(topic, purged)
    return is_read


def free_resend(state: State, resend: Resend) -> None:
    """Called when a resend is over. Its tokens are freed as postponed work, when no view reads them."""
    (state.resends_in_views if state.views else state.unfreed).append(resend)


def keep_topic(state: State, topic: Topic) -> None:
    """Before the owner or the expiry of a topic changes."""
    _in_open_views(state, View.keep_topic, topic)


def keep_deleted(state: State, topic: Topic) -> None:
    """Before a topic is deleted."""
    _in_open_views(state, View.keep_deleted, topic)


def keep_turns(state: State, topic: Topic) -> None:
    """Before the turns of a topic change."""
    _in_open_views(state, View.keep_turns, topic)


def keep_consumer(state: State, consumer: Consumer) -> None:
    """Before a field of a consumer changes."""
    _in_open_views(state, View.keep_consumer, consumer)


def keep_group(state: State, group: CreditGroup) -> None:
    """Before a group or the order of its consumers changes."""
    _in_open_views(state, View.keep_group, group)


def keep_session(state: State, session: Session) -> None:
    """Before a session, its groups, what it owns, or what is sent to it again changes."""
    _in_open_views(state, View.keep_session, session)


def keep_value(state: State, value: Value) -> None:
    """Called when a value was removed. Its memory is counted for the oldest view that has it."""
    is_counted = False
    for view in _open(state):
        is_counted |= view.keep_value(value, is_counted)


def keep_barrier(state: State, barrier: Barrier) -> None:
    """Before a barrier changes."""
    _in_open_views(state, View.keep_barrier, barrier)


def ids_of_views(state: State, topic: Topic) -> list[PartitionedDict[Any]]:
    """What holds the ids of the topic's messages that open views need."""
    return [ids for view in _open(state) for ids in view.needed_ids(topic)]


def _in_open_views(state: State, keep: Callable[[View, R], None], record: R) -> None:
    """Calls `keep` of each open view, without a list of them: a batch comes here thousands of times."""
    for reference in state.views:
        if (view := reference()) is not None:
            keep(view, record)


def _open(state: State) -> list[View]:
    found = [reference() for reference in state.views]
    return [view for view in found if view is not None]
