"""What a node tells the service manager that started it: the protocol of sd_notify(3), over the socket that the
variable NOTIFY_SOCKET names.

A node that systemd did not start says nothing. What cannot be sent is left out, because no message is worth a node.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping


class ServiceManager:
    """`loop` is the node's loop: its turns are what the watchdog watches.

    `environment` has NOTIFY_SOCKET, and WATCHDOG_USEC and WATCHDOG_PID if the unit sets `WatchdogSec=`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, environment: Mapping[str, str] = os.environ) -> None:
        self._loop = loop
        self._socket, self._address = _open(environment.get("NOTIFY_SOCKET", ""))
        self._watchdog_s = _watchdog_s(environment)
        self._timer: asyncio.TimerHandle | None = None
        self._status = ""

    def ready(self) -> None:
        """Clients can connect."""
        self._send("READY=1")
        if self._watchdog_s and self._timer is None:
            self._watched()

    def reloading(self) -> None:
        """SIGHUP arrived. `ready` is called when all was read again."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`. Sent only if it has changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """The node hands over and stops."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Close the socket. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _watched(self) -> None:
        """Half the time that the unit allows, as sd_watchdog_enabled(3) recommends."""
        self._send("WATCHDOG=1")
        self._timer = self._loop.call_later(self._watchdog_s / 2, self._watched)

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass  # the manager is gone, or its buffer is full


def _open(name: str) -> tuple[socket.socket | None, str]:
    """`name` is a path, or "@" and a name in the abstract namespace. Another kind of socket is not for this protocol
    version, so nothing is sent to it."""
    if not name.startswith(("/", "@")):
        return None, ""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    opened.setblocking(False)
    return opened, f"\0{name[1:]}" if name[0] == "@" else name


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Seconds without a message after which the manager restarts the node; 0 if it does not."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    allowed = environment.get("WATCHDOG_USEC", "")
    return int(allowed) / 1e6 if allowed.isdecimal() else 0.0
