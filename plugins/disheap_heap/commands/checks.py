"""Checks of commands, and the texts of their refusals. The functions read the state and raise. They change nothing."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from disheap.errors import (
    InvalidArgument,
    PayloadTooLarge,
    PriorityOutOfRange,
    TopicFull,
    TopicLocked,
    TopicNotFound,
    TopicPaused,
)
from disheap.protocol.broker import DURATION_MAX_MS, PRIORITY_MAX, PRIORITY_MIN, NewMessage
from disheap_heap.state.messages import Body, Content

if TYPE_CHECKING:
    from disheap_heap.state.state import Session, State, Topic

_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]")
"""Control characters and invisible characters: line separators, zero-width spaces, and characters that change the
direction of writing. A name that holds one looks like another name (Unicode Technical Report 36)."""


def find_topic(state: State, name: str) -> Topic:
    """The topic with this name. Raises `TopicNotFound`."""
    topic = state.topics.get(name)
    if topic is None:
        raise not_found(state, name)
    return topic


def find_existing(state: State, name: str) -> Topic:
    """The topic with this name. Raises `TopicNotFound`, whose text does not propose to create the topic."""
    topic = state.topics.get(name)
    if topic is None:
        raise TopicNotFound(
            f"there is no topic {name!r}{_in_group(state)}; `disheap topic ls` shows those that there are"
        )
    return topic


def require_access(topic: Topic, session: int) -> None:
    """Raises `TopicLocked` unless the topic is shared or `session` owns it. Enqueueing needs no access: a topic for
    replies gets its messages from other sessions."""
    owner = topic.owner
    if owner is not None and owner.number != session:
        raise _locked(topic, owner)


def require_free(state: State, topic: Topic, session: int) -> None:
    """Raises `TopicLocked` unless `session` may take the exclusive topic over: its owner has no connection, and both
    sessions have the same principal."""
    owner, taker = topic.owner, state.sessions.get(session)
    if owner is not None and (owner.attached or taker is None or taker.principal != owner.principal):
        raise _locked(topic, owner)


def _locked(topic: Topic, owner: Session) -> TopicLocked:
    return TopicLocked(
        f"topic {topic.name!r} is exclusive to another session, number {owner.number}; it is free when that one ends. "
        "`disheap session ls` shows whose it is"
    )


def check_message(state: State, message: NewMessage) -> Body:
    """Returns the body to store. Raises `PriorityOutOfRange`, `PayloadTooLarge`, `InvalidHeaders`, `InvalidKey` or
    `InvalidArgument`."""
    if not PRIORITY_MIN <= message.priority <= PRIORITY_MAX:
        raise PriorityOutOfRange(
            f"priority {message.priority} is not between {PRIORITY_MIN} and {PRIORITY_MAX}, a signed 64-bit integer"
        )
    if len(message.payload) > state.settings.payload_bytes:
        raise PayloadTooLarge(
            f"a payload of {len(message.payload)} bytes is over the limit of {state.settings.payload_bytes} "
            "(`payload_bytes` in [machine.heap]); keep large data elsewhere and send where it is"
        )
    if not 0 <= message.delay_ms <= DURATION_MAX_MS:
        raise InvalidArgument(f"delay_ms is 0 to {DURATION_MAX_MS}, not {message.delay_ms}")
    if not 0 <= message.expires_ms <= DURATION_MAX_MS:
        raise InvalidArgument(f"expires_ms is 0 to {DURATION_MAX_MS}, not {message.expires_ms}")
    if message.encoded_headers or message.key:
        if message.encoded_headers:
            message.check_headers()
        if message.key:
            message.check_key()
        return Content(message.payload, message.encoded_headers, message.key)
    return message.payload


def check_capacity(topic: Topic, count: int) -> None:
    """Raises `TopicPaused` if the topic takes no messages for now, and `TopicFull` if it cannot take `count` more.
    Leased messages count, since they may be given back, and so does what open transactions hold. A topic that drops
    when it is full takes any message that is not delayed."""
    if topic.is_closed:
        raise TopicPaused(
            f"topic {topic.name!r} takes no messages for now: somebody has paused it. Try again later, or let it go on "
            f"with: disheap topic resume {shlex.quote(topic.name)}"
        )
    bound, held = topic.settings.max_messages, topic.messages() + topic.reserved
    if bound and not topic.drops and held + count > bound:
        raise TopicFull(
            f"topic {topic.name!r} holds {held} of at most {bound} messages and cannot take {count} more; "
            "consume or purge some, or try again later"
        )


def check_delayed_capacity(topic: Topic, count: int) -> None:
    """Raises `TopicFull` if a topic that drops when it is full cannot take `count` more delayed messages. It drops
    ready messages only, so delayed ones need a bound of their own."""
    bound, held = topic.settings.max_messages, len(topic.delayed) + topic.reserved_delayed
    if topic.drops and count and held + count > bound:
        raise TopicFull(
            f"topic {topic.name!r} holds {held} delayed messages of at most {bound} and drops none of "
            f"those, so it cannot take {count} more. Try again when some are due"
        )


def check_name(what: str, name: str) -> None:
    """Raises `InvalidArgument` for a name with control characters or invisible ones."""
    found = _INVISIBLE.search(name)
    if found is not None:
        raise InvalidArgument(
            f"the name of a {what} holds no control characters and no invisible ones; this one has {found.group()!a}"
        )


def limit_reached(what: str, count: int, called: str = "") -> InvalidArgument:
    """The refusal at a limit. `what` is the setting. `called` says what it counts, if its name does not."""
    return InvalidArgument(
        f"there are {count} {called or what}, which is the limit; raise `{what}` in [machine.heap] on every node, or "
        "remove some"
    )


def _in_group(state: State) -> str:
    """Words that name the group that was asked, if it is not the one that is asked without a name."""
    return f" in group {state.group}, which the URL names" if state.group else ""


def not_found(state: State, name: str) -> TopicNotFound:
    """The refusal for an unknown topic. Its text has a command that can be pasted into a shell, whatever the name
    is."""
    dashes = "-- " if name.startswith("-") else ""
    return TopicNotFound(
        f"there is no topic {name!r}{_in_group(state)}; create it first: disheap topic create "
        f"{dashes}{shlex.quote(name)}"
    )
