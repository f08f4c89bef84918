"""One node for all tests of a module: its gRPC server is a process, which takes a second to start."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from serving import Site, renew_topic, serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Site]:
    """A node with the service on default settings."""
    async with serving() as site:
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def site(shared: Site) -> Site:
    """The shared node, with one topic "jobs", which is empty."""
    await renew_topic(shared)
    return shared
