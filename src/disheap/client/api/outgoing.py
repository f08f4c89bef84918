"""From the arguments of a caller to the records that both clients send.

Headers and keys are checked here, so that bad ones raise where they were given, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from disheap.protocol.broker import Headers, NewMessage, check_batch, checked_headers


def new_message(
    payload: bytes, priority: int, delay_ms: int, expires_ms: int, headers: Headers | None, key: str
) -> NewMessage:
    """One message. Raises `InvalidHeaders` or `InvalidKey`."""
    if not headers and not key:
        return NewMessage(payload, priority, delay_ms, expires_ms)
    message = NewMessage(payload, priority, delay_ms, expires_ms, checked_headers(headers), key)
    message.check_key()
    return message


def new_batch(messages: Sequence[bytes | NewMessage], priority: int) -> list[NewMessage]:
    """The messages of one batch. Bare bytes get `priority`. Raises `InvalidHeaders` or `InvalidKey`."""
    batch = [one if isinstance(one, NewMessage) else NewMessage(one, priority) for one in messages]
    check_batch(one.encoded_headers for one in batch if one.encoded_headers)
    for message in batch:
        message.check_headers()
        message.check_key()
    return batch
