"""Requests about messages that have one answer: Enqueue, Pop, Peek, and the settling of leases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from disheap.client.api.consuming import Delivery, Popping
from disheap.errors import NotSent, PayloadTooLarge
from disheap.protocol import broker
from disheap_grpc import translation
from disheap_grpc.calls import FRAMING_BYTES, Call
from disheap_grpc.settings import LEASE_MS, WAIT_MAX_MS
from disheap_grpc.translation import count_of, duration_of
from disheap_grpc.v1 import broker_pb2 as pb


async def enqueue(call: Call, request: Any) -> Any:
    """One message."""
    command = broker.Enqueue(request.topic, translation.new_message(request.message))
    return pb.EnqueueResponse(id=(await call.request(command)).id)


async def pop(call: Call, request: Any) -> Any:
    """Takes as many as fit into one answer. The others go back.

    `no_ack` acknowledges here, before the answer: what does not fit could not go back otherwise.
    """
    count = count_of(request.count, 1, "count")
    wait_ms = duration_of(request.wait_ms, 0, "wait_ms", WAIT_MAX_MS)
    lease_ms = duration_of(request.lease_ms, LEASE_MS, "lease_ms")
    driver = await call.driver()
    deliveries = await Popping(driver, broker.Pop(request.topic, count, wait_ms, lease_ms)).wait_deliveries()
    out, size = pb.PopResponse(), 0
    for delivery in deliveries:
        one = seal(call, delivery, without_lease=request.no_ack)
        size += one.ByteSize() + FRAMING_BYTES
        if size > call.site.answer_bytes:
            break
        out.deliveries.append(one)
    taken, surplus = deliveries[: len(out.deliveries)], deliveries[len(out.deliveries) :]
    if call.context.cancelled():
        taken, surplus = [], deliveries
    driver.give_back([delivery.token for delivery in surplus])
    if surplus and not taken:
        check_fits(call, surplus[0])
        raise NotSent("the client has gone; what it would have got was given back")
    if request.no_ack and taken:
        await driver.request(broker.Ack([delivery.token for delivery in taken]), timeout_s=call.timeout_s)
    return out


async def peek(call: Call, request: Any) -> Any:
    """As many as fit into one answer."""
    query = broker.Peek(request.topic, count_of(request.count, 1, "count"), request.delayed, request.leased)
    out, size = pb.PeekResponse(), 0
    for message in (await call.query(query)).messages:
        one = translation.peeked(message)
        size += one.ByteSize() + FRAMING_BYTES
        if size > call.site.answer_bytes:
            out.truncated = True
            break
        out.messages.append(one)
    return out


async def ack(call: Call, request: Any) -> Any:
    """The messages are done with."""
    return await settle(call, *settling(call, request))


nack = extend = ack
"""What is asked for is in the request."""


async def settle(call: Call, command: broker.Command | None, foreign: Sequence[bytes]) -> Any:
    """Settles leases and says which were lost."""
    return settled(call, None if command is None else await call.request(command), foreign)


def settling(call: Call, request: Any) -> tuple[broker.Command | None, list[bytes]]:
    """The command of an AckRequest, NackRequest or ExtendRequest, and the tokens that are none of this client's.
    Raises `InvalidArgument`."""
    tokens, foreign = call.site.leases.open(request.leases, call.principal)
    command: broker.Command
    match type(request).__name__:
        case "AckRequest":
            command = broker.Ack(tokens)
        case "NackRequest":
            command = broker.Nack(tokens, duration_of(request.delay_ms, 0, "delay_ms"), request.discard)
        case _:
            command = broker.Extend(tokens, duration_of(request.lease_ms, LEASE_MS, "lease_ms"))
    return command if tokens else None, foreign


def settled(call: Call, reply: broker.Settled | None, foreign: Sequence[bytes]) -> Any:
    """What a client learns of it."""
    if reply is None:
        return pb.SettleResponse(lost=foreign)
    lost = [call.site.leases.seal(token, call.principal) for token in reply.stale]
    return pb.SettleResponse(settled=reply.count, lost=[*foreign, *lost])


def seal(call: Call, delivery: Delivery, without_lease: bool = False) -> Any:
    """The delivery, with the token of its lease for this client."""
    lease = b"" if without_lease else call.site.leases.seal(delivery.token, call.principal)
    return translation.delivery(delivery, lease)


def check_fits(call: Call, delivery: Delivery) -> None:
    """Raises `PayloadTooLarge` for a message that no answer has room for."""
    size = seal(call, delivery).ByteSize() + FRAMING_BYTES
    if size > call.site.answer_bytes:
        raise PayloadTooLarge(
            f"message {delivery.id} takes {size} bytes, and an answer has room for {call.site.answer_bytes}. It was "
            "given back. Raise message_bytes in [service.grpc], or take it with another client"
        )
