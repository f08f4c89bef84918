"""Waits for results by push.

Celery says which results are awaited (`consume_from`) and which no longer are (`cancel_for`), at any time and from any
thread, also from a garbage collection. So both only note it. What is noted goes to the broker when somebody waits
(`drain_events`). A program that starts groups and waits for none of them costs the broker nothing.

The answer to a `Watch` has the results that are there, so nothing has to be asked before. After a change of the
connection the keys are watched again, and that answer has what was missed meanwhile.

Several threads may wait. One of them waits for the socket, and the others wait for that one.
"""

from __future__ import annotations

import math
import threading
from typing import Any

from celery import states
from celery.backends.asynchronous import BaseResultConsumer

from disheap.client.core.url import BrokerUrl
from disheap.client.io import forked
from disheap.client.io.blocking_driver import BlockingClient
from disheap.client.io.waiting import wait_ready
from disheap.errors import ConnectionLost, DisheapError, OutcomeUnknown, RequestError
from disheap.protocol import broker
from disheap_celery.failures import BackendUnreachable, translated
from disheap_celery.results import CLIENT, Results, chunks

WATCHED_MAX = 10_000
"""Keys that one consumer watches at once; half of what a session may watch by default. Of a larger group, the next ones
are watched as results come."""
_ABSENT = object()
IDLE_WAIT_S = 1.0
"""The longest time in one call, if the caller names none."""


LOOKS_AT_LEAST = 4
"""A session has to be missing at so many looks before it counts as out of reach. So one look after a long pause, in
which the session lapsed, is no reason."""


class ResultConsumer(BaseResultConsumer):  # type: ignore[misc]
    """The results that one backend object waits for, over a connection of its own, which the first wait opens."""

    def __init__(self, *arguments: Any, url: BrokerUrl, results: Results) -> None:
        super().__init__(*arguments)
        self._url, self._results = url, results
        self._connection_errors = (BackendUnreachable,)
        self._new: dict[str, None] = {}  # awaited, and not watched yet
        self._watched: dict[str, None] = {}
        self._unwanted: dict[str, None] = {}  # watched, and not awaited any more
        self._begin()

    def _begin(self) -> None:
        self._came = threading.Condition(threading.RLock())
        self._is_waiting = False  # a thread waits for the socket
        self._client: BlockingClient | None = None
        self._must_watch_again = False
        self._arrived: list[broker.ValueSet] = []
        self._failed: RequestError | None = None
        self._unready_s = 0.0  # while somebody waited
        self._looked_at = math.inf
        forked.watch(self)

    def abort_in_child(self) -> None:
        """A fork: the connection and the threads that wait are the parent's."""
        self._new = {**self._watched, **self._new}
        self._watched, self._unwanted = {}, {}
        self._begin()

    def on_after_fork(self) -> None:
        """Celery says so too, later."""

    # --- what is awaited ---

    def start(self, initial_task_id: str, **_: Any) -> None:
        """Celery's name for the first `consume_from`."""
        self.consume_from(initial_task_id)

    def consume_from(self, task_id: str) -> None:
        """A result is awaited."""
        key = self.backend.get_key_for_task(task_id)
        self._unwanted.pop(key, None)
        if key not in self._watched:
            self._new[key] = None

    def cancel_for(self, task_id: str) -> None:
        """A result is not awaited any more."""
        key = self.backend.get_key_for_task(task_id)
        self._new.pop(key, None)
        if key in self._watched:
            self._unwanted[key] = None

    def on_state_change(self, meta: dict[str, Any], message: Any) -> None:
        """A result came: Celery's part, and its watch is over if it is an outcome."""
        super().on_state_change(meta, message)
        if meta["status"] in states.READY_STATES:
            self.cancel_for(meta["task_id"])

    # --- waiting ---

    def drain_events(self, timeout: float | None = None, **_: Any) -> None:
        """Waits for results, at most `timeout` seconds, and hands on those that came. Raises `BackendUnreachable` when
        no node takes the session for as long as one request may take."""
        wait_s = IDLE_WAIT_S if timeout is None else timeout
        with self._came:
            if self._read() or self._is_waiting:
                if not self._hand_on():
                    self._came.wait(wait_s)
                return
            client = self._connected()
            descriptor = client.fileno()
            wait_s = min(wait_s, max(client.wants_poll_in, 0.001))
            self._is_waiting = True
        try:
            wait_ready([(descriptor, False)] if descriptor >= 0 else [], wait_s)
        finally:
            with self._came:
                self._is_waiting = False
                self._came.notify_all()
        with self._came:
            self._read()
            self._hand_on()

    def stop(self) -> None:
        """Ends the connection."""
        with self._came:
            client, self._client = self._client, None
            if client is not None:
                client.close()

    def _connected(self) -> BlockingClient:
        if self._client is None or self._client.is_over:
            self._client = BlockingClient(self._url, client=CLIENT)
            self._client.on_value = self._arrived.append
            self._client.on_ready = self._note_ready
        return self._client

    def _note_ready(self, resumed: bool) -> None:
        """The session is attached to another connection: pushes may be lost, and a new session watches nothing."""
        self._must_watch_again = True

    def _read(self) -> bool:
        """Sends what is to be watched, and reads what is there. Returns whether results came."""
        try:
            client = self._connected()
            client.poll_once(0.0)
            if client.ready:
                self._send_watches(client)
                client.flush()
            self._check_ready(client)
            client.take_pushes()  # of a session that lapsed; there are no consumers
        except DisheapError as error:
            raise translated(error) from error
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise translated(failed)
        return bool(self._arrived)

    def _check_ready(self, client: BlockingClient) -> None:
        """Raises `BackendUnreachable` after too long without a session. Only time in which somebody waits counts."""
        now, limit_s = client.clock(), self._url.timeout_s
        waited_s = max(0.0, min(now - self._looked_at, limit_s / LOOKS_AT_LEAST))
        self._looked_at = now
        self._unready_s = 0.0 if client.ready else self._unready_s + waited_s
        if self._unready_s > limit_s:
            self._unready_s = 0.0
            raise BackendUnreachable(
                f"the result backend: no node took a session within {limit_s:g} s; the result may be there"
            )

    def _send_watches(self, client: BlockingClient) -> None:
        if self._must_watch_again:
            self._must_watch_again = False
            self._new = {**self._watched, **self._new}
            self._watched.clear()
        unwanted = [key for key in list(self._unwanted) if self._watched.pop(key, _ABSENT) is None]
        self._unwanted.clear()
        for keys in chunks(unwanted):
            client.send(broker.Unwatch(keys))
        room = max(0, WATCHED_MAX - len(self._watched))
        wanted = list(self._new)[:room]
        for key in wanted:
            self._new.pop(key, None)
            self._watched[key] = None
        for keys in chunks(wanted):
            client.send(broker.Watch(keys), on_reply=self._replied)

    def _replied(self, reply: Any) -> None:
        """The answer to a `Watch`, with what is there already."""
        if isinstance(reply, RequestError):
            if not isinstance(reply, OutcomeUnknown | ConnectionLost):  # then the keys are watched again
                self._failed = reply
            return
        self._arrived += reply.values
        self._arrived += [broker.ValueSet(key, None, broker.STAGE_INTERIM) for key in reply.left]

    def _hand_on(self) -> bool:
        """Gives what came to Celery. Values that were too long for a push are asked for. Returns whether any came."""
        arrived = list(self._arrived)
        self._arrived.clear()
        long = [one.key for one in arrived if one.value is None]
        values = self._results.values(long) if long else {}
        for one in arrived:
            if one.stage != broker.STAGE_INTERIM:
                self._watched.pop(one.key, None)
                self._unwanted.pop(one.key, None)
            value = values.get(one.key) if one.value is None else one.value
            if value is not None:
                self.on_state_change(self.backend.decode_result(value), None)
        if arrived:
            self._came.notify_all()
        return bool(arrived)
