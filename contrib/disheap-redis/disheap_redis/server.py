"""One connection to a Redis: commands, changes that are atomic, and errors with a type.

A command is never sent twice. After an error whose outcome is not known nothing more is sent: what the server has done
is found out at the next start. Owns the lock: who has opened the storage writes its name into `meta`, and every change
checks it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from redis import exceptions
from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.retry import Retry

from disheap.errors import ConfigError, DiskFailed, StorageError, StorageFull, StorageGone, StorageLocked
from disheap_redis.settings import HELD_RETRY_S, LOADING_S, RedisSettings

Part = bytes | str | int
POLL_S = 0.05
MIB = 1 << 20

APPLY = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return redis.error_reply('NOTOURS') end
local at = 2
while at <= #ARGV do
  local count = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + count))
  at = at + count + 1
end
return 1
"""
"""Carries out commands, all or none, if the lock is ours. Redis looks at its memory before the first write alone."""

TAKE = """
local now = redis.call('HGET', KEYS[1], 'owner') or ''
if now ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'owner', ARGV[2])
return 1
"""
"""Takes the lock from the owner that was seen."""


class Server:
    """A connection that is made when it is first needed. `name` is what errors call the server."""

    def __init__(self, settings: RedisSettings) -> None:
        """Raises `ConfigError` for a URL that cannot be read."""
        self._settings = settings
        self.name = redacted(settings.url)
        try:
            options = parse_url(settings.url)
        except ValueError as error:
            raise ConfigError(f"[storage.redis] url = {self.name} cannot be read: {error}") from None
        self._kind: Any = options.pop("connection_class", Connection)
        self._options = options
        self._connection: Any = None
        self._failed = ""

    def call(self, *command: Part) -> Any:
        """The answer to one command. Raises `DiskFailed`, `StorageFull` and `ConfigError`."""
        if self._failed:
            raise DiskFailed(self._failed)
        try:
            connection = self._connected()
            connection.send_command(*command)
            return connection.read_response()
        except exceptions.RedisError as error:
            raise self._translated(error) from None
        except OSError as error:
            raise self._fail(f"the connection to {self.name} is lost: {error}") from None

    def close(self) -> None:
        """The lock goes with the connection. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def wait_loaded(self) -> None:
        """Waits until a server that has just started has read its data. Raises `DiskFailed`."""
        deadline = time.monotonic() + LOADING_S
        while True:
            try:
                self.call("PING")
                return
            except StillLoading:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def info(self, section: str) -> dict[str, str]:
        """A section of INFO."""
        lines = bytes(self.call("INFO", section)).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def _connected(self) -> Any:
        if self._connection is None:
            timeouts = {"socket_timeout": self._settings.timeout_s, "socket_connect_timeout": self._settings.timeout_s}
            never = Retry(NoBackoff(), 0)
            self._connection = self._kind(**{**timeouts, **self._options}, retry=never, protocol=2)
            try:
                self._connection.connect()
            except BaseException:
                self._connection = None
                raise
        return self._connection

    def _translated(self, error: exceptions.RedisError) -> Exception:
        match error:
            case exceptions.BusyLoadingError():
                return StillLoading(f"{self.name} is still reading its data; start the node when it has")
            case exceptions.AuthenticationError() | exceptions.NoPermissionError():
                return ConfigError(f"[storage.redis] {self.name} refuses this user or password: {error}")
            case exceptions.OutOfMemoryError():
                return StorageFull(
                    f"{self.name} is out of memory (maxmemory). Nothing was changed. Raise maxmemory, or take a "
                    "snapshot"
                )
            case exceptions.ReadOnlyError():
                return self._fail(
                    f"{self.name} has become a replica and takes no writes. Nothing was changed. Set [storage.redis] "
                    "url to the master that has this node's data"
                )
            case exceptions.ResponseError() if "NOTOURS" in str(error):
                self._failed = (
                    f"the data of this node in {self.name} were removed, or another process has opened them. What this "
                    "node would confirm from here on could not be found again"
                )
                return StorageGone(self._failed)
            case exceptions.ConnectionError() | exceptions.TimeoutError() if self._connection is None:
                return DiskFailed(
                    f"{self.name} cannot be reached: {error}. Start it, or correct [storage.redis] url. Nothing was "
                    "changed"
                )
            case _:
                return self._fail(f"{self.name} failed: {str(error).rstrip('.')}")

    def _fail(self, reason: str) -> DiskFailed:
        self.close()
        self._failed = f"{reason}. The node stops, because what the server has kept is not known; start it again"
        return DiskFailed(self._failed)


class StillLoading(DiskFailed):
    """The server reads its file after its start."""


class Lock:
    """Who may write. The name of the owner holds the number of its connection, so a process that has died is known by
    the connection that is gone."""

    def __init__(self, server: Server, meta: str, nonce: str) -> None:
        self._server, self._meta, self._nonce = server, meta, nonce
        self.owner = ""

    def take(self) -> None:
        """Raises `StorageLocked` if the owner's connection is open."""
        run_id = self._server.info("server")["run_id"]
        number = int(self._server.call("CLIENT", "ID"))
        mine = f"{run_id}/{number}/{self._nonce}"
        deadline = time.monotonic() + HELD_RETRY_S
        while True:
            before = self._server.call("HGET", self._meta, "owner") or b""
            if not self._is_open(before.decode(), run_id):
                if self._server.call("EVAL", TAKE, 1, self._meta, before, mine) == 1:
                    self.owner = mine
                    return
            elif time.monotonic() > deadline:
                raise StorageLocked(
                    f"another process has the data of this node open in {self._server.name}. Stop it, or give each "
                    "node a prefix of its own. If it is on a machine that is down, wait until Redis has noticed "
                    "(tcp-keepalive)"
                )
            time.sleep(POLL_S)

    def apply(self, *commands: Sequence[Part]) -> None:
        """Carries out all commands or none. Raises `StorageFull`, `StorageGone` and `DiskFailed`."""
        arguments: list[Part] = []
        for command in commands:
            arguments += (len(command), *command)
        self._server.call("EVAL", APPLY, 1, self._meta, self.owner, *arguments)

    def release(self) -> None:
        """The next one need not wait until the connection is gone. Raises what `apply` raises."""
        if self.owner:
            self.apply(("HDEL", self._meta, "owner"))
            self.owner = ""

    def _is_open(self, owner: str, run_id: str) -> bool:
        its_run_id, _, rest = owner.partition("/")
        number = rest.partition("/")[0]
        return its_run_id == run_id and bool(bytes(self._server.call("CLIENT", "LIST", "ID", number)).strip())


def check_server(server: Server, durability: str) -> None:
    """Raises `ConfigError` for a server that does not keep what the storage promises."""
    if server.info("replication").get("role") != "master":
        raise ConfigError(f"[storage.redis] {server.name} is a replica. Set url to its master. Nothing was changed")
    policy = server.info("memory").get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        raise ConfigError(
            f"[storage.redis] {server.name} has maxmemory-policy {policy}, and would drop parts of the log. Set it "
            "to noeviction"
        )
    if durability == "fsync":
        _check_fsync(server)


def _check_fsync(server: Server) -> None:
    try:
        found = {name: _setting(server, name) for name in ("appendonly", "appendfsync")}
    except (StorageError, ConfigError) as error:
        raise ConfigError(
            f"[storage.redis] {server.name} does not tell whether it syncs what it writes ({error}). Let the user run "
            'CONFIG GET, or set durability = "server" and read what that gives up'
        ) from None
    if found != {"appendonly": "yes", "appendfsync": "always"}:
        said = ", ".join(f"{name} {value}" for name, value in found.items())
        raise ConfigError(
            f"[storage.redis] {server.name} has {said}, and may lose what it has confirmed. Set appendonly yes and "
            'appendfsync always, or durability = "server" and read what that gives up'
        )


def _setting(server: Server, name: str) -> str:
    answer = server.call("CONFIG", "GET", name)
    return bytes(answer[1]).decode() if len(answer) > 1 else "unknown"


def redacted(url: str) -> str:
    """The URL without user, password and parameters."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
