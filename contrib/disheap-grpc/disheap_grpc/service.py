"""The service, in the node's process: it starts the gRPC server in a process of its own, and tells it what it needs.

`grpc.aio` leaves a reference cycle behind for each request, and a node runs without the garbage collector. So no gRPC
runs in the node. `docs/explanation/decisions/grpc-in-its-own-process.md` has the figures.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from disheap.errors import AddressInUse, ConfigError, DisheapError
from disheap.interfaces import ServiceContext
from disheap.logs import LineLimiter, get_logger
from disheap_grpc.credentials import Credentials
from disheap_grpc.node_view import LINE_BYTES, receive, send
from disheap_grpc.settings import GrpcSettings

log = get_logger(__name__)

BIND_S = 30.0
"""The process loads gRPC, which takes half a second on an idle machine."""
STOP_S = 4.0
"""Then it is killed. A node gives a service five seconds."""
LOOK_EVERY_S = 0.25
RESTART_S = 1.0
"""Between the end of a process that nobody stopped and the start of the next one."""
POLL_S = 0.005


class GrpcService:
    """The service `grpc`: the cluster's topics and this node's status over gRPC."""

    name: ClassVar[str] = "grpc"
    api: ClassVar[int] = 1
    Settings: ClassVar[type[msgspec.Struct]] = GrpcSettings

    def __init__(self, settings: GrpcSettings, context: ServiceContext) -> None:
        """Reads the certificates, so that a wrong file is known before anything starts. Raises `ConfigError`."""
        check_address(settings.listen)
        context.check_listen(settings.listen, bool(settings.certfile and settings.cafile))
        self.address = ""
        self._settings = settings
        self._context = context
        self._credentials = Credentials(settings)
        self._server: ServerProcess | None = None
        self._watching: asyncio.Task[None] | None = None

    async def bind(self) -> None:
        """Takes the port. Raises `ConfigError` for an address that cannot be used."""
        await self._spawn(self._settings)

    async def start(self) -> None:
        """Listens, on the port that was taken or else on the one that it takes now."""
        if self._server is None:
            await self.bind()
        assert self._server is not None
        await self._server.start()
        self._watching = self._context.loop.create_task(self._watch(), name="gRPC process")
        log.info("gRPC is served", address=self.address, pid=self._server.pid)

    async def stop(self) -> None:
        """Ends all requests and the process. Leases go back."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        if self._server is not None:
            await self._server.stop()
            self._server = None

    def reload(self) -> None:
        """Connections made from now on use the certificates as they are now. Raises `ConfigError`."""
        self._credentials.reload()
        if self._server is not None:
            self._server.send({"reload": True})

    @property
    def pid(self) -> int:
        """The id of the server's process; 0 without one."""
        return self._server.pid if self._server is not None else 0

    @property
    def is_serving(self) -> bool:
        """Whether the server's process has said that it serves."""
        return self._server is not None and self._server.has_started

    async def _spawn(self, settings: GrpcSettings) -> None:
        self._server = ServerProcess(self._context, settings)
        port = await self._server.wait_bound()
        self.address = f"{settings.listen.rpartition(':')[0]}:{port}"

    async def _watch(self) -> None:
        while True:
            assert self._server is not None
            await self._server.wait_end()
            log.error("the process of the gRPC server has ended; another one is started", pid=self._server.pid)
            await self._server.stop()
            await asyncio.sleep(RESTART_S)
            try:
                await self._spawn(msgspec.structs.replace(self._settings, listen=self.address))
                await self._server.start()
            except ConfigError as error:
                log.error("the gRPC server cannot be started again", reason=str(error))


class ServerProcess:
    """One process, from its start to its end."""

    def __init__(self, context: ServiceContext, settings: GrpcSettings) -> None:
        self._context = context
        self._settings = settings
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # vfork: it does not copy a large node
                [sys.executable, "-P", "-m", "disheap_grpc.process", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        self.pid = self._process.pid
        self._socket: socket.socket | None = ours
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._started: asyncio.Future[None] = context.loop.create_future()
        self._said: dict[str, Any] = {}  # the state that it knows
        self._lines = LineLimiter(context.loop)

    async def wait_bound(self) -> int:
        """The port that it has taken. Raises `ConfigError`."""
        assert self._socket is not None
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._socket, limit=LINE_BYTES)
        self._socket = None
        self.send({"settings": msgspec.to_builtins(self._settings), "node": self._context.node})
        try:
            async with asyncio.timeout(BIND_S):
                said = await receive(self._reader)
        except TimeoutError:
            raise ConfigError(f"[service.grpc] the gRPC server has said nothing for {BIND_S:g} s") from None
        if said is None:
            raise ConfigError("[service.grpc] the process of the gRPC server has failed; standard error says why")
        if "failed" in said:
            raise AddressInUse(said["failed"])
        return int(said["bound"])

    async def start(self) -> None:
        """It serves when this returns. Raises `ConfigError` if it has ended."""
        loop = self._context.loop
        self._tasks = [loop.create_task(self._listen()), loop.create_task(self._tell_state())]
        self.send({"start": True})
        await self._started

    @property
    def has_started(self) -> bool:
        """Whether it serves."""
        return self._started.done() and self._process.returncode is None

    async def wait_end(self) -> None:
        """Waits until it has closed its end."""
        if self._tasks:
            await asyncio.wait(self._tasks[:1])

    async def stop(self) -> None:
        """Ends it, within `STOP_S`. May be called twice."""
        if self._writer is not None:
            self.send({"stop": True})
        else:
            self._process.kill()  # its start was given up
            if self._socket is not None:
                self._socket.close()
        await self._wait_exit()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def send(self, said: dict[str, Any]) -> None:
        """One line to the process."""
        if self._writer is not None and not self._writer.is_closing():
            send(self._writer, said)

    async def _wait_exit(self) -> None:
        deadline = self._context.loop.time() + STOP_S
        while self._process.poll() is None:
            if self._context.loop.time() > deadline:
                self._process.kill()
            await asyncio.sleep(POLL_S)

    async def _listen(self) -> None:
        assert self._reader is not None
        while (said := await receive(self._reader)) is not None:
            if "started" in said and not self._started.done():
                self._started.set_result(None)
            elif "ask" in said:
                self.send({"answer": await self._answer(said["ask"])})
            elif "failed_request" in said:
                self._lines.write(log.error, "a gRPC request failed", error=said["failed_request"])
        if not self._started.done():
            self._started.set_exception(
                ConfigError("[service.grpc] the gRPC server has ended; standard error says why")
            )

    async def _answer(self, group: int) -> dict[str, Any]:
        try:
            return {"status": await self._context.status(group), "unready": list(self._context.unready())}
        except DisheapError as error:
            return {"error": str(error), "code": getattr(error, "code", "")}

    async def _tell_state(self) -> None:
        while True:
            state = {"unready": list(self._context.unready()), "client_address": await self._own_address()}
            if state != self._said:
                self._said = state
                self.send({"state": state})
            await asyncio.sleep(LOOK_EVERY_S)

    async def _own_address(self) -> str:
        """Where clients reach this node. It is known once the node is a member."""
        if self._settings.broker_url:
            return ""
        if self._said.get("client_address"):
            return str(self._said["client_address"])
        try:
            status = await self._context.status()
        except DisheapError:
            return ""  # it is asked again
        found = (row["client_address"] for row in status.get("members", ()) if row["is_self"])
        return next(found, "") or ""


def check_address(address: str) -> None:
    """Raises `ConfigError` for what is not HOST:PORT."""
    host, colon, port = address.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in host and not is_bracketed):
        raise ConfigError(f"[service.grpc] {address!r} is not an address: write HOST:PORT, such as 127.0.0.1:8500")


if TYPE_CHECKING:
    from disheap.interfaces import Binding, Reloading, Service

    _fits: type[Service] = GrpcService
    _binds: type[Binding] = GrpcService
    _reloads: type[Reloading] = GrpcService
