"""A message: as it is put into a topic, and as it is shown without being delivered."""

from __future__ import annotations

from disheap.protocol.broker.fields import Exact, Record
from disheap.protocol.broker.headers import HeaderValue, check_key, decode_headers


class NewMessage(Exact, frozen=True):
    """What a client sends: the one record of `Enqueue`, `EnqueueMany` and `Publish`. `delay_ms`: not to be delivered
    before. `expires_ms`: dropped when not delivered within (0: never). `encoded_headers`: a MessagePack map by itself,
    from text to text, integers, floats, booleans and bytes; no bytes for no headers. `key`: what the message is about,
    such as a customer; empty for no key."""

    payload: bytes
    priority: int = 0
    delay_ms: int = 0
    expires_ms: int = 0
    encoded_headers: bytes = b""
    key: str = ""

    @property
    def headers(self) -> dict[str, HeaderValue]:
        """The headers, decoded at each call. Raises `InvalidHeaders`."""
        return decode_headers(self.encoded_headers)

    def check_headers(self) -> None:
        """Raises `InvalidHeaders`."""
        if self.encoded_headers:
            decode_headers(self.encoded_headers)

    def check_key(self) -> None:
        """Raises `InvalidKey`."""
        if self.key:
            check_key(self.key)


class PeekedMessage(Record, frozen=True):
    """`state`: "ready", "delayed" or "leased". `due_ms`: when a delayed message becomes ready; 0 for the others.
    `attempts` counts the leases so far, without those that were released. Headers and key are those of `NewMessage`.
    `session` and `consumer` are the numbers of what holds a leased message; 0 for the others. `expires_at_ms`: when it
    is dropped if it is not delivered; 0 for never."""

    id: int
    priority: int
    attempts: int
    enqueued_ms: int
    state: str
    due_ms: int
    payload: bytes
    encoded_headers: bytes = b""
    key: str = ""
    session: int = 0
    consumer: int = 0
    expires_at_ms: int = 0

    @property
    def headers(self) -> dict[str, HeaderValue]:
        """The headers, decoded at each call. Raises `InvalidHeaders`."""
        return decode_headers(self.encoded_headers)
