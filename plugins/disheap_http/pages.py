"""What is served at which path. A page asks the node through its `ServiceContext` and makes an `Answer`.

Does not know connections. Every page that waits for something has a time limit. What takes longer than a few
milliseconds pauses in between, because a page runs on the node's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from disheap.errors import InvalidArgument, RequestError, StorageError, UnknownGroup
from disheap.interfaces import ServiceContext
from disheap_http.messages import TEXT, Answer, Request, as_json, read_number, refusal

STATUS_S = 5.0
"""A status asks the disk, which may hang."""
GROUPS_MAX = 64

Page = Callable[[Request], Awaitable[Answer]]


class Site:
    """Pages by path, on one address. Implements `connection.Site`."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self.only_local = False
        self._pages = pages

    async def answer(self, request: Request) -> Answer:
        """Answers a request, also one that is wrong."""
        page = self._pages.get(request.path)
        if page is None:
            return refusal(404, "there is no such page", pages=sorted(self._pages))
        try:
            return await page(request)
        except (InvalidArgument, UnknownGroup) as error:
            return _refused(400, error)
        except TimeoutError:
            return refusal(503, "the node did not answer in time; its disk may hang")
        except (RequestError, StorageError) as error:
            return _refused(503, error)


def _refused(status: int, error: Exception) -> Answer:
    reason = str(error)
    while error.__context__ is not None:  # no garbage collector would free a cycle of errors and frames
        error.__context__.__traceback__ = None
        error.__context__ = None
    error.__traceback__ = None
    return refusal(status, reason)


class NodePages:
    """Whether the node lives and takes part, and where its replicas stand."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    def pages(self) -> dict[str, Page]:
        """The pages by their paths."""
        return {"/health": self.health, "/ready": self.ready, "/raft/status": self.raft_status}

    async def health(self, request: Request) -> Answer:
        """The process lives and its loop turns. It says nothing of the cluster: a restart would not help."""
        request.fields()
        return as_json(200, {"status": "ok", "node": self._context.node})

    async def ready(self, request: Request) -> Answer:
        """200 if the node takes part in every group, and 503 with the reasons otherwise."""
        request.fields()
        reasons = self._context.unready()
        content = {"ready": not reasons, "node": self._context.node, "reasons": list(reasons)}
        return as_json(503 if reasons else 200, content)

    async def raft_status(self, request: Request) -> Answer:
        """What `disheap status --json` shows of this node."""
        group = read_number(request.fields("group"), "group", 0, 0, GROUPS_MAX)
        async with asyncio.timeout(STATUS_S):
            return as_json(200, await self._context.status(group))


def index_page(pages: Mapping[str, Page]) -> Page:
    """A list of the other pages."""
    body = "".join(f"{path}\n" for path in sorted(pages)).encode()

    async def index(request: Request) -> Answer:
        return Answer(200, body, TEXT)

    return index
