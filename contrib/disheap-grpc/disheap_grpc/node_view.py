"""The node, as the gRPC server's process sees it: what the node has told, and what it is asked.

The two processes have a socket between them, with a JSON object in each line. From the node come `settings` and `node`
once, then `state` (`unready`, `client_address`) whenever it changes, `status` as an answer, `start`, `reload` and
`stop`. To the node go `bound` or `failed` once, `ask` for a status, and `log`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from disheap.errors import ProtocolError, UnknownGroup

LINE_BYTES = 16 << 20
"""The size of a status: a cluster has a few members."""


class Node:
    """What handlers know of their node."""

    def __init__(self, name: str, writer: asyncio.StreamWriter) -> None:
        self.name = name
        self.client_address = ""
        self._has_address = asyncio.Event()
        self._unready: Sequence[str] = ("the node has not said yet that it is ready",)
        self._writer = writer
        self._asking = asyncio.Lock()
        self._answer: asyncio.Future[dict[str, Any]] | None = None

    def unready(self) -> Sequence[str]:
        """Why the node should get no traffic now."""
        return self._unready

    async def wait_address(self) -> str:
        """Where clients reach the node. It is known once the node is a member."""
        await self._has_address.wait()
        return self.client_address

    async def status(self, group: int) -> dict[str, Any]:
        """What `disheap status --json` shows. One is asked for at a time. Raises `UnknownGroup`."""
        async with self._asking:
            self._answer = asyncio.get_running_loop().create_future()
            send(self._writer, {"ask": group})
            answer = await asyncio.shield(self._answer)
        if "error" in answer:
            kind = UnknownGroup if answer["code"] == UnknownGroup.code else ProtocolError
            raise kind(answer["error"])
        self._unready = tuple(answer["unready"])
        return dict(answer["status"])

    def told(self, said: dict[str, Any]) -> None:
        """The node said something that concerns the handlers."""
        if "state" in said:
            self._unready, self.client_address = tuple(said["state"]["unready"]), said["state"]["client_address"]
            if self.client_address:
                self._has_address.set()
        elif "answer" in said and self._answer is not None and not self._answer.done():
            self._answer.set_result(said["answer"])


def send(writer: asyncio.StreamWriter, said: dict[str, Any]) -> None:
    """One line."""
    writer.write(msgspec.json.encode(said) + b"\n")


async def receive(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next line; None when the other process is gone."""
    try:
        line = await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return dict(msgspec.json.decode(line))
