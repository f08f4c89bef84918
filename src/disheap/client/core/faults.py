"""What a node's refusals and goodbyes mean to a client."""

from __future__ import annotations

from typing import Any

import msgspec

from disheap.client.core.events import Answered
from disheap.errors import (
    CommandRefused,
    DiskFull,
    MalformedFrame,
    MemoryFull,
    NotSent,
    OutcomeUnknown,
    RequestError,
    UnknownGroup,
    WrongCluster,
    protocol_error,
    request_error,
)
from disheap.protocol import frames, handshake
from disheap.protocol.handshake import SUPPORTED, Goodbye, Hello, Versions, Welcome

PUT_OFF = frozenset({"overloaded", "window-exceeded"})
"""Nothing was done, and the number is still unused: the same request goes out again after a while."""
SHORTAGES = frozenset({"disk-full", "memory-full"})
"""This sending had no effect. An earlier sending of the same request, on another connection, may have had one."""
NOTHING_DONE = (CommandRefused, NotSent, DiskFull, MemoryFull)
"""As the answer to a command: it was not carried out, and will not be. A shortage is answered only if no earlier
sending can have had an effect."""
WRONG_NODE = frozenset({"not-leader", "session-expired"})
"""The answer is not at this node, or not any more: look for the leader, which knows about the session."""
SESSION_OVER = frozenset({"session-expired", "wrong-secret"})
"""Refusals of an ATTACH after which only a new session helps."""


def read_fault(body: bytes) -> RequestError:
    """Returns the error of a refusal. Raises `MalformedFrame` if it cannot be read."""
    try:
        fault = msgspec.msgpack.decode(body, type=frames.Fault)
    except frames.UNREADABLE as error:
        raise MalformedFrame(f"the node's refusal cannot be read: {error}") from error
    return request_error(fault.code, fault.message)


def read_goodbye(body: bytes) -> Goodbye:
    """Returns a GOODBYE. Raises the `ProtocolError` of its code, if it is one: it would come again at every attempt."""
    goodbye = handshake.open_goodbye(body)
    if (fatal := protocol_error(goodbye.code, goodbye.message)) is not None:
        raise fatal
    return goodbye


def read_welcome(body: bytes, hello: Hello, offered: Versions = SUPPORTED) -> Welcome:
    """Returns the answer to `hello`. Raises `WrongVersion` for a version that was not offered. Raises `WrongCluster`
    for another cluster than the one asked for, and `UnknownGroup` for another group."""
    _, welcome = handshake.open_welcome(body, Welcome, offered)
    if hello.cluster_id not in ("", welcome.cluster_id):
        raise WrongCluster(
            f"node {welcome.node} belongs to cluster {welcome.cluster_id}, but this client to {hello.cluster_id}; "
            "check the hosts in the URL"
        )
    if welcome.group != hello.group:
        raise UnknownGroup(f"node {welcome.node} answers for group {welcome.group}, not for group {hello.group}")
    return welcome


def outcome_unknown(waiter: Any, why: str) -> Answered:
    """The answer to a request whose outcome is not known, and `why` it was not repeated."""
    return Answered(waiter, 0, b"", OutcomeUnknown(f"the connection was lost before the answer came, {why}"))


SESSION_ENDED = "and the session did not outlive it: look before repeating"
NOT_REPEATED = "and such a request is not repeated by itself: look before repeating"


def transferred(node: str, before: str, leader: str) -> dict[str, Any]:
    """Returns what a transfer to `node` ("" for any) came to: `before` led, and now `leader` does. Raises
    `OutcomeUnknown` if that is not what was asked for."""
    if leader and (leader == node if node else leader != before):
        return {"leader": leader}
    raise OutcomeUnknown(f"{leader or 'nobody'} leads{f', and not {node}' if node else ' as before'}: look again")


def too_large(body: bytes, limit: int) -> str:
    """Says that a command is over the node's limit."""
    return (
        f"a request of {len(body)} bytes is over the node's limit of {limit} bytes for a frame (`frame_bytes` in "
        "[limits], which follows `payload_bytes` in [machine.heap]). Send less at once, or raise that on every node"
    )


def not_sent(request: str, why: str) -> NotSent:
    """The error of a request that was taken back before it left."""
    return NotSent(f"{request} did not leave in time, and was taken back: nothing was done. No node takes it: {why}")
