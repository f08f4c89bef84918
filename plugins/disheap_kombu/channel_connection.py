"""What a channel asks of its connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from disheap.protocol import broker
from disheap_kombu.publishing.header_routing import ExchangeKinds
from disheap_kombu.subscription import Subscription


class ChannelConnection(Protocol):
    """What a channel asks of its connection. Every method may raise kombu's errors."""

    @property
    def command_bytes(self) -> int:
        """The longest command that the node takes."""

    @property
    def priority_sign(self) -> int:
        """1 if larger priorities go first, -1 if smaller ones do."""

    def named_for_broker(self, command: broker.Publish) -> broker.Publish:
        """The command with the names that the broker knows."""

    @property
    def cluster(self) -> tuple[str, int]:
        """The id of the cluster, and the number of the group."""

    @property
    def exchanges(self) -> ExchangeKinds:
        """The kinds of the exchanges."""

    def call(self, command: broker.Command, timeout_s: float | None = None) -> Any:
        """Sends a command and returns its reply."""

    def query(self, query: broker.Query) -> Any:
        """Sends a query and returns its reply."""

    def send(self, command: broker.Command) -> None:
        """Sends a command without waiting for its answer."""

    def publish(self, command: broker.Publish, timeout_s: float | None = None) -> broker.Published:
        """Publishes, and waits for the confirm."""

    @property
    def has_window(self) -> bool:
        """Whether a publish may return before its confirm."""

    def publish_in_window(
        self, command: broker.Publish, sent: tuple[Any, str, str], timeout_s: float | None = None
    ) -> None:
        """Publishes, and waits only while too many publishes have no confirm."""

    def publish_batch(self, commands: list[broker.Publish], timeout_s: float | None = None) -> list[int]:
        """Publishes all or none, and waits for the confirm."""

    def are_revoked(self, tasks: list[dict[str, Any]]) -> list[bool]:
        """Whether each of these tasks, by its headers, is marked as revoked."""

    def mark_revoked(self, message: Any) -> None:
        """Marks the tasks that a broadcast of remote control revokes."""

    def send_transient(self, command: broker.Publish) -> None:
        """Publishes at most once, and does not wait."""

    def pop(self, command: broker.Pop) -> broker.Deliver | None:
        """One message, or None if there is none now."""

    def subscribe(self, command: broker.Subscribe, subscription: Subscription) -> None:
        """Starts a consumer."""

    def unsubscribe(self, subscription: Subscription, wait: bool) -> None:
        """Ends a consumer."""

    def ack(self, tokens: list[broker.Token]) -> None:
        """Acknowledges messages."""

    def nack(self, tokens: list[broker.Token], discard: bool) -> None:
        """Gives messages back, or drops them."""

    def queue_of(self, topic: str) -> str:
        """The name of a queue, as the application knows it."""

    def next_group(self) -> int:
        """A number for consumers that share a credit."""

    def note_declared(self, exchange: str, queue: str = "", is_temporary: bool = False) -> None:
        """A queue or a binding was declared."""

    def note_bound(self, queue: str) -> None:
        """A queue gets messages from an exchange."""

    def consumes_without_leases(self, queue: str) -> bool:
        """Whether the messages of a queue are worth neither a lease nor an ack."""

    def release_channel(self, channel: Any, subscriptions: Iterable[Subscription], tokens: list[broker.Token]) -> None:
        """The channel was closed."""
