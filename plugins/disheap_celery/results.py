"""The connection of the result backend to the broker: one for each process and URL, shared by its threads.

Owns the client, the lock around it, and what becomes of both in the child of a fork. The connection is opened by the
first command. When it is not used its session lapses, and the next command opens another one. Changes of the leader are
hidden in the client.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from disheap.client.core.url import BrokerUrl
from disheap.client.io import forked
from disheap.client.io.blocking_driver import BlockingClient
from disheap.errors import DisheapError
from disheap.protocol import broker
from disheap_celery.failures import translated

CLIENT = "disheap-celery"


class Results:
    """Commands and queries on values and barriers. May be called from several threads; each call waits for its answer
    while it holds the connection. Raises `BackendUnreachable`, `BackendFull`, `ResultTooLarge`, and refusals of the
    broker."""

    def __init__(self, url: BrokerUrl) -> None:
        self._url = url
        self._lock = threading.RLock()
        self._client: BlockingClient | None = None
        forked.watch(self)

    def call(self, command: broker.Command) -> Any:
        """Sends a command and returns its reply."""
        with self._lock:
            try:
                return self._connected().request(command)
            except DisheapError as error:
                raise translated(error) from error

    def query(self, query: broker.Query) -> Any:
        """Sends a query and returns its answer."""
        with self._lock:
            try:
                return self._connected().query(query)
            except DisheapError as error:
                raise translated(error) from error

    def values(self, keys: Sequence[str]) -> dict[str, bytes]:
        """The values under these keys. A key without a value is left out."""
        found: dict[str, bytes] = {}
        for some in chunks(keys):
            left: Sequence[str] = some
            while left:
                answer = self.query(broker.GetValues(list(left)))
                found.update((one.key, one.value) for one in answer.values)
                left = answer.left
        return found

    def delete(self, keys: Sequence[str]) -> None:
        """Drops values."""
        for some in chunks(keys):
            self.call(broker.DeleteValues(some))

    def parts(self, barrier: str) -> Iterator[broker.Part]:
        """The parts of a barrier, in the order of their arrival, read page by page."""
        count = 0
        while True:
            page = self.query(broker.GetParts(barrier, count))
            yield from page.parts
            count += len(page.parts)
            if not page.left:
                return

    def info(self, barrier: str) -> broker.BarrierInfo:
        """How many parts of a barrier are there."""
        info: broker.BarrierInfo = self.query(broker.GetParts(barrier, 0, 1)).info
        return info

    def cluster(self) -> tuple[str, int]:
        """The id of the cluster, and the number of the group."""
        with self._lock:
            try:
                client = self._connected()
                client.connect()
            except DisheapError as error:
                raise translated(error) from error
            welcome = client.welcome
            return ("" if welcome is None else welcome.cluster_id), self._url.group

    def close(self) -> None:
        """Ends the connection. The next command opens another one."""
        with self._lock:
            client, self._client = self._client, None
            if client is not None:
                client.close()

    def abort_in_child(self) -> None:
        """A fork: the connection is the parent's, and a thread that is not here may hold the lock."""
        self._lock = threading.RLock()
        self._client = None
        forked.watch(self)

    def _connected(self) -> BlockingClient:
        if self._client is None or self._client.is_over:
            self._client = BlockingClient(self._url, client=CLIENT)
        return self._client


_shared: weakref.WeakValueDictionary[str, Results] = weakref.WeakValueDictionary()
_sharing = threading.Lock()


def shared(url: BrokerUrl) -> Results:
    """The connection of this process for a URL."""
    with _sharing:
        found = _shared.get(repr(url))
        if found is None:
            found = _shared[repr(url)] = Results(url)
        return found


def close_all(**_: Any) -> None:
    """A worker's process ends: its sessions end at once, and not by their timeouts."""
    for one in list(_shared.values()):
        with suppress(Exception):
            one.close()


def chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    """The keys, as many at once as one command may name."""
    waiting = list(keys)
    for start in range(0, len(waiting), broker.KEYS_MAX):
        yield waiting[start : start + broker.KEYS_MAX]
