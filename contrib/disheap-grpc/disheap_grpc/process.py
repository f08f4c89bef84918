"""The process of the gRPC server: `python -m disheap_grpc.process FD`, started by `service.py`. Not for people.

It ends when its node says so, and when its node is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable

import msgspec

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # a line on stderr for each failed handshake of a stranger

from disheap.errors import ConfigError
from disheap_grpc.cluster import Cluster
from disheap_grpc.node_view import LINE_BYTES, Node, receive, send
from disheap_grpc.server import GrpcServer
from disheap_grpc.settings import GrpcSettings


async def run(fd: int) -> None:
    """From the first line to the last one."""
    reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=fd), limit=LINE_BYTES)
    first = await receive(reader)
    if first is None:
        return
    settings = msgspec.convert(first["settings"], GrpcSettings)
    node = Node(first["node"], writer)

    def tell_failed(error: str) -> None:
        if writer.transport.get_write_buffer_size() < LINE_BYTES:  # a node that does not read gets no more
            send(writer, {"failed_request": error})

    cluster = Cluster(node, settings.broker_url)
    server = GrpcServer(settings, node, cluster, tell_failed)
    try:
        send(writer, {"bound": await server.bind()})
        await serve(reader, writer, node, server)
    except ConfigError as error:
        send(writer, {"failed": str(error)})
        await writer.drain()
    finally:
        await server.stop()
        await cluster.close()
        writer.close()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, node: Node, server: GrpcServer) -> None:
    """Serves until the node says stop, or is gone."""
    while (said := await receive(reader)) is not None and "stop" not in said:
        node.told(said)
        if "start" in said:
            await server.start()
            send(writer, {"started": True})
        elif "reload" in said:
            with contextlib.suppress(ConfigError):  # the node has checked the files
                server.reload()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def main() -> None:
    """Ends itself. The node decides when: a terminal's Ctrl-C goes to both processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run(int(sys.argv[1])))


if __name__ == "__main__":
    main()
