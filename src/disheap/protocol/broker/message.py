"""A message: as it is put into a topic, and as it is shown without being delivered."""

from __future__ import annotations

from disheap.protocol.broker.fields import Exact, Record


class NewMessage(Exact, frozen=True):
    """What a client sends: the one record of `Enqueue`, `EnqueueMany` and `Publish`. The machine checks it. `delay_ms`:
    not to be delivered before. `expires_ms`: dropped when not delivered within (0: never)."""

    payload: bytes
    priority: int = 0
    delay_ms: int = 0
    expires_ms: int = 0


class PeekedMessage(Record, frozen=True):
    """`state`: "ready", "delayed" or "leased"; `due_ms`: when it is (delayed) due, 0 otherwise."""

    id: int
    priority: int
    attempts: int
    enqueued_ms: int
    state: str
    due_ms: int
    payload: bytes
