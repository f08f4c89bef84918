"""One node in a process of its own, for tests: says its client address, and ends when its standard input does.

Arguments: storage, data directory, this node's name, and `name=peer address=client address` of each member. Where the
data directory's parent has a `tls` directory with ca.pem, cert.pem and key.pem, clients come by mutual TLS. `HEAP` in
the environment is JSON for the settings of the machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import disheap
from disheap.config.node_config import MemberConfig, NodeConfig


async def main(storage: str, directory: str, name: str, *described: str) -> None:
    members = tuple(MemberConfig(*text.split("=")) for text in described)
    own = next(member for member in members if member.name == name)
    tls = Path(directory).parent / "tls"
    files = {"cafile": str(tls / "ca.pem"), "certfile": str(tls / "cert.pem"), "keyfile": str(tls / "key.pem")}
    plugins: dict[str, dict[str, dict[str, Any]]] = {"machine": {"heap": json.loads(os.environ.get("HEAP", "{}"))}}
    if tls.is_dir():
        plugins["transport"] = {"tls": files}
    config = NodeConfig(
        client_transport="tls" if tls.is_dir() else "",
        plugins=plugins,
        name=name,
        members=members if len(members) > 1 else (),
        alone=len(members) == 1,
        storage=storage,
        data_dir=directory,
        peer_listen=own.peer,
        client_listen=own.client,
        log_level="error",
    )
    async with disheap.Node(config) as node:
        print(node.client_address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
