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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import disheap
from disheap.cli.processes.loops import loop_factory
from disheap.config.node_config import MemberConfig, NodeConfig


def count_syncs(path: Path) -> None:
    """Adds a byte to the file for each synchronisation of a disk. The file itself is never synchronised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    for name in ("fsync", "fdatasync"):
        setattr(os, name, counted(getattr(os, name), path))


def counted(synchronise: Callable[[int], None], path: Path) -> Callable[[int], None]:
    def call(descriptor: int) -> None:
        with path.open("ab") as file:
            file.write(b".")
        synchronise(descriptor)

    return call


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
    count_syncs(Path(f"{directory}.syncs"))
    async with disheap.Node(config) as node:
        print(node.client_address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory() if os.environ.get("UVLOOP") else None) as runner:
        runner.run(main(*sys.argv[1:]))
