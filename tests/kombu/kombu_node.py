"""One node in a process of its own, for tests: says its client address, and ends when its standard input does."""

from __future__ import annotations

import asyncio
import sys

import disheap
from disheap.config import NodeConfig


async def main(storage: str, directory: str, listen: str) -> None:
    config = NodeConfig(
        name="n1",
        storage=storage,
        data_dir=directory,
        client_listen=listen,
        peer_listen="127.0.0.1:0",
        log_level="error",
    )
    async with disheap.Node(config) as node:
        await node.wait_for_leader(timeout_s=20)
        print(node.client_address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
