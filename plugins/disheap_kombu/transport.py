"""The transport that kombu and Celery see for `disheap://` and, over TLS, `disheaps://`.

Owns the promises made to them: what is implemented, which errors may be retried. `options.py` reads a connection's
parameters. Cheap to build: Celery makes one for every publish that has an ETA.

It stands on `kombu.transport.base`, as pyamqp does, not on `virtual`: routing is the broker's, deliveries are pushed,
priorities are whole, and nothing polls.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from kombu.transport import base

import disheap
from disheap.client.core import url as urls
from disheap.client.io.blocking_driver import BlockingClient
from disheap.errors import DisheapError
from disheap.protocol.broker import EXCHANGE_KINDS
from disheap_kombu import failures, node_address
from disheap_kombu.celery_pool import watch_worker
from disheap_kombu.channel import Channel
from disheap_kombu.connection import Connection
from disheap_kombu.labels import default_label
from disheap_kombu.namespaces import Namespace
from disheap_kombu.options import broker_url, confirm_window, holds_back_tasks, priority_sign
from disheap_kombu.publishing.delays import restore_eta
from disheap_kombu.publishing.unconfirmed import resume, suspend
from disheap_kombu.publishing.window import window_of
from disheap_kombu.reading.eventloop import HubAdapter

DRIVER = "disheap"
CELERY_STEPS = {"celery.worker.consumer.mingle": "Mingle", "celery.worker.consumer.gossip": "Gossip"}
"""Celery's steps that know compatible transports by name. Each is told only if Celery has loaded it."""
POOLS_ON_LOOP_THREAD = ("celery.concurrency.solo", "celery.concurrency.thread")
"""Pools that keep the loop's own thread busy: solo with every task, threads while a warm shutdown waits for the last.
Neither forks. Celery loads such a module where a worker runs under that pool, and nowhere else."""


class Transport(base.Transport):
    """The kombu transport `disheap`. kombu calls its methods; the work is in `Connection` and `Channel`."""

    client: Any
    scheme = "disheap"
    can_parse_url = True
    default_port: Any = urls.DEFAULT_PORT
    driver_type = DRIVER
    driver_name = DRIVER
    connection_errors: tuple[Any, ...] = failures.CONNECTION_ERRORS
    channel_errors: tuple[Any, ...] = failures.CHANNEL_ERRORS
    recoverable_connection_errors = failures.RECOVERABLE_CONNECTION_ERRORS
    recoverable_channel_errors = failures.RECOVERABLE_CHANNEL_ERRORS
    implements = base.Transport.implements.extend(
        asynchronous=True, heartbeats=True, batch_publish=True, exchange_type=frozenset(EXCHANGE_KINDS)
    )

    def __init__(self, client: Any, **_: Any) -> None:
        self.client = client
        _introduce_to_celery()
        watch_worker()

    def driver_version(self) -> str:
        """The version of disheap."""
        return disheap.__version__

    # --- connections ---

    def establish_connection(self) -> Connection:
        """Waits for a session at the leader, at most `connect_timeout` (Celery: `broker_connection_timeout`)."""
        owner = self.client
        owner.cycle = None  # the alternates are seeds of the one client, and it finds the leader itself
        text, name = urls.without_path(broker_url(owner, self.scheme), getattr(owner, "virtual_host", "") or "")
        url = urls.parse(text)
        options = owner.transport_options or {}
        sign, holds_back, limit = priority_sign(options), holds_back_tasks(options), confirm_window(options)
        if not url.label:
            url = replace(url, label=default_label())
        kept = resume(owner, url)
        client = kept.client if kept else BlockingClient(url, client="disheap-kombu")
        try:
            client.connect(owner.connect_timeout or None)
        except DisheapError as error:
            if kept and not client.is_over:
                suspend(owner, *kept)
                raise failures.PublishOutcomeUnknown(f"a publish before is still without an answer: {error}") from error
            client.close(end_session=False)
            raise failures.translated(error) from error
        node_address.note_node(owner, client.address)
        client.take_pushes()  # a client that was kept may say here that its session has lapsed; nobody consumes yet
        unconfirmed, window = kept.unconfirmed if kept else None, window_of(owner, limit)
        return Connection(client, owner, unconfirmed, sign, holds_back, Namespace(name), window)

    def close_connection(self, connection: Connection) -> None:
        """Ends the connection and its session."""
        connection.close()

    def verify_connection(self, connection: Connection) -> bool:
        """Whether the connection still works."""
        return connection.connected

    def _collect(self, connection: Connection | None) -> None:
        """kombu's name, for what it calls after a fork and when a connection is beyond saving."""
        if connection is not None:
            connection.suspend_or_collect()

    def create_channel(self, connection: Connection) -> Channel:
        """A new channel of this connection."""
        return connection.channel()

    def close_channel(self, channel: Channel) -> None:
        """Closes a channel. Its unacknowledged messages go back."""
        channel.close()

    # --- events ---

    def drain_events(self, connection: Connection, timeout: float | None = None, **_: Any) -> None:
        """Waits for deliveries and calls their callbacks. Raises `TimeoutError` if none came within `timeout`
        seconds."""
        connection.drain_events(timeout)

    def register_with_event_loop(self, connection: Connection, loop: Any) -> None:
        """Adds the connection to a Celery worker's event loop."""
        HubAdapter(connection, loop, keepalive=any(pool in sys.modules for pool in POOLS_ON_LOOP_THREAD))

    def unregister_from_event_loop(self, connection: Connection, loop: Any) -> None:
        """Takes the connection out of the event loop."""
        connection.detach_hub()

    def on_readable(self, connection: Connection, loop: Any) -> None:
        """Called by the event loop when the socket has data."""
        connection.read()
        connection.dispatch()

    def get_heartbeat_interval(self, connection: Connection) -> float:
        """Seconds. Whatever was asked for: the session's timeout decides."""
        return connection.driver.heartbeat_s

    def heartbeat_check(self, connection: Connection, rate: float = 2) -> None:
        """Called by kombu in intervals, to keep the session alive."""
        connection.heartbeat()

    def qos_semantics_matches_spec(self, connection: Connection) -> bool:
        """False: the prefetch count may change while a consumer is at work, and Celery does so."""
        return False

    # --- words ---

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """The URI for logs, with the node in use and without secrets."""
        return uri if include_password else node_address.shown_uri(self.client, uri)

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """The parameters of a URL that names no host."""
        return {"hostname": f"{self.scheme}://", "port": self.default_port}


class TlsTransport(Transport):
    """The kombu transport `disheaps`: with TLS."""

    scheme = "disheaps"


def _introduce_to_celery() -> None:
    """Tells what Celery has loaded. May be called again."""
    if (signals := sys.modules.get("celery.signals")) is not None and hasattr(signals, "task_prerun"):
        signals.task_prerun.connect(restore_eta, weak=False, dispatch_uid=DRIVER)
    for module, step in CELERY_STEPS.items():
        if (loaded := sys.modules.get(module)) is not None and hasattr(loaded, step):
            getattr(loaded, step).compatible_transports.add(DRIVER)


node_address.install()
