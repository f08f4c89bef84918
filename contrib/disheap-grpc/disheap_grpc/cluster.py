"""The way to the cluster: one session of this node's service, opened by the first request that needs it.

The service speaks to the cluster as any client does, so it finds the leader by itself and outlives it. All requests
share the session. `leases` keeps their clients apart.
"""

from __future__ import annotations

import asyncio

from disheap.client.api.asynchronous import Client, connect
from disheap.errors import DisheapError, NotSent
from disheap_grpc.node_view import Node

LABEL = "gRPC of {node}"


class Cluster:
    """Opens the session, and opens another one if the first attempt failed."""

    def __init__(self, node: Node, broker_url: str) -> None:
        self._node = node
        self._broker_url = broker_url
        self._client: Client | None = None
        self._opening: asyncio.Task[Client] | None = None
        self._closed = False

    async def client(self, timeout_s: float) -> Client:
        """Returns the client, attached to a leader at least once. Raises `NotSent` if there is none in time."""
        if self._client is None or self._client.driver.is_over:
            await self._wait_open(timeout_s)
        assert self._client is not None
        return self._client

    async def close(self) -> None:
        """Ends the session: all leases go back. May be called twice."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
            self._opening = None
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _wait_open(self, timeout_s: float) -> None:
        if self._closed:
            raise NotSent("nothing was done: this node is stopping")
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open(timeout_s), name="gRPC to the cluster")
        opening = self._opening  # of all requests that wait; it ends for all of them
        try:
            await asyncio.wait([opening], timeout=timeout_s)
            if not opening.done():
                raise NotSent("nothing was done: no leader was found in time")
            if opening.cancelled():
                raise NotSent("nothing was done: this node is stopping")
            error = opening.exception()
            if error is not None:
                raise NotSent(f"nothing was done: {error}") if isinstance(error, DisheapError) else error
        finally:
            if opening.done() and self._opening is opening:
                self._opening = None
            del opening  # a task keeps its error, whose traceback would hold this frame

    async def _open(self, timeout_s: float) -> Client:
        url = self._broker_url or f"disheap://{await self._node.wait_address()}"
        self._client = await connect(url, timeout_s=timeout_s, label=LABEL.format(node=self._node.name))
        return self._client
