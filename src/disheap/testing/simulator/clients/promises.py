"""What the product has promised to the clients of a heap, for the checks at the end of a run."""

from __future__ import annotations

from typing import NamedTuple

from disheap.client.api.consuming import Delivery
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage
from disheap.testing.simulator.clients.client import Tally


class Prepared(NamedTuple):
    """A transaction that a client has prepared."""

    epoch: int
    messages: list[NewMessage]
    acked: dict[int, int]  # message -> epoch


class Promises(Tally):
    """What the product has promised to its clients, and how much they have done."""

    def __init__(self) -> None:
        super().__init__()
        self.enqueued: dict[int, NewMessage] = {}
        self.refused: dict[bytes, str] = {}  # payloads of commands that were refused: nothing of them is there
        self.settled: dict[int, int] = {}  # message -> epoch under which it was acked
        self.handed: dict[broker.Token, str] = {}  # leases whose delivery somebody was given
        self.holding: dict[str, list[Delivery]] = {}  # by client: what it was given and has not settled
        self.transactions: dict[str, Prepared] = {}  # by name, of all clients
        self.brought = 0
