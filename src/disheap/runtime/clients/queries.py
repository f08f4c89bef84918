"""Queries of clients: QUERY, which reads the machine, and ADMIN, which asks the node.

Owns how many are under way. Neither goes through the log, and each is answered once by an ANSWER or by the end of its
connection. Does not know what a query says.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

import msgspec

from disheap.errors import InvalidArgument, NotLeader, OutcomeUnknown, Overloaded, RequestError
from disheap.logs import LineLimiter, get_logger
from disheap.protocol import frames
from disheap.protocol.frames import Kind, Status, fault
from disheap.runtime.clients.connection import ClientConnection
from disheap.runtime.clients.limits import ServerLimits
from disheap.runtime.replica.group import Group

log = get_logger(__name__)


class QueryHost(Protocol):
    """The server, as the queries see it."""

    limits: ServerLimits
    loop: asyncio.AbstractEventLoop
    group: Group
    leads: bool

    @property
    def number(self) -> int:
        """The group's number."""

    def leader_address(self) -> str:
        """Where clients find the leader, "" if it is not known."""

    async def answer_admin(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out an operator's request. Raises `RequestError`."""


class Queries:
    """`query` and `admin` send the answer themselves."""

    def __init__(self, host: QueryHost) -> None:
        self.under_way = 0  # QUERYs that are not answered
        self._host = host
        self._failures = LineLimiter(host.loop)
        self._tasks: dict[asyncio.Task[None], None] = {}

    def query(self, connection: ClientConnection, number: int, body: bytes) -> None:
        """Read the machine when a majority has confirmed that this node leads, and send the answer."""
        host = self._host
        if not self._admits_query(connection, number, self.under_way):
            return
        self.under_way += 1

        def is_ready(ok: bool) -> None:
            if ok:
                connection.answer(answer)
                return
            self.under_way -= 1
            connection.refuse(NotLeader(host.leader_address()))  # the client asks the next leader

        def answer() -> None:
            self.under_way -= 1
            if connection.closed:
                return
            if not host.leads:  # meanwhile: the state may be another's, and older
                connection.refuse(NotLeader(host.leader_address()))
                return
            self._answer_query(connection, number, body)

        host.group.read(is_ready)

    def _answer_query(self, connection: ClientConnection, number: int, body: bytes) -> None:
        group = self._host.group
        try:
            result = group.sessions.machine.query(group.now_ms(), connection.session, body)
            connection.send(Kind.ANSWER, Status.OK, number, group.applied.index, result)
        except RequestError as error:
            connection.send(Kind.ANSWER, Status.ERROR, number, group.applied.index, fault(error))
        except Exception:
            self._failures.write(log.exception, "a query failed", group=self._host.number)
            connection.send(
                Kind.ANSWER, Status.ERROR, number, 0, fault(OutcomeUnknown("the query failed; see the node's log"))
            )

    def admin(self, connection: ClientConnection, number: int, body: bytes) -> None:
        """Carry out an operator's request in a task of its own, and send the answer."""
        if self._admits_query(connection, number, len(self._tasks)):
            task = self._host.loop.create_task(self._admin(connection, number, body))
            self._tasks[task] = None
            task.add_done_callback(self._tasks.pop)

    async def _admin(self, connection: ClientConnection, number: int, body: bytes) -> None:
        try:
            request = msgspec.msgpack.decode(body, type=dict[str, Any])
            result = await self._host.answer_admin(request)
            connection.send(Kind.ANSWER, Status.OK, number, 0, msgspec.msgpack.encode(result))
        except frames.UNREADABLE as error:
            refusal = InvalidArgument(f"an admin request is a map with an op: {error}")
            connection.send(Kind.ANSWER, Status.ERROR, number, 0, fault(refusal))
        except RequestError as error:
            connection.send(Kind.ANSWER, Status.ERROR, number, 0, fault(error))
        except Exception as error:
            self._failures.write(log.exception, "an admin request failed", group=self._host.number)
            connection.send(Kind.ANSWER, Status.ERROR, number, 0, fault(OutcomeUnknown(f"the request failed: {error}")))

    def _admits_query(self, connection: ClientConnection, number: int, there: int) -> bool:
        limits = self._host.limits
        if there < limits.queries and connection.queries <= limits.queries_per_connection:
            return True
        refusal = Overloaded(
            f"the node has its limit of {limits.queries} queries under way, or this connection its limit of "
            f"{limits.queries_per_connection}; ask again"
        )
        connection.send(Kind.ANSWER, Status.ERROR, number, 0, fault(refusal))
        return False

    def cancel(self) -> None:
        """The node stops: admin requests under way are given up."""
        for task in self._tasks:
            task.cancel()
