"""A `BlockingClient` without a node: answers by a table, delivers what a test gives it, remembers what it was told."""

from __future__ import annotations

import socket
from collections import deque
from typing import Any

from disheap.client.core.url import BrokerUrl
from disheap.errors import RequestTimeout
from disheap.protocol import broker
from disheap_kombu import messages


class FakeWire:
    heartbeat_s = 5.0
    ready = True
    session_id = 1
    session_timeout_ms = 15_000
    holds_anything = False
    is_over = False
    address = "h1:8400"

    def __init__(self) -> None:
        self.url = BrokerUrl(timeout_s=1.0)
        self.on_socket_change: Any = None
        self.wants_poll_in = 5.0
        self.said: list[Any] = []
        self.flushed = 0
        self.beats = 0
        self.waited = 0
        self.closed: str | None = None
        self.suspended = False
        self.limits: list[float | None] = []  # of the calls, in seconds
        self.on_reply: Any = None  # of the last call
        self.answers: dict[type, Any] = {}
        self._pushes: deque[Any] = deque()
        self._numbers = 0
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)

    # --- for tests ---

    def arrive(self, *pushes: Any) -> None:
        """As if it had come by the socket, which becomes readable."""
        self._pushes.extend(pushes)
        self._far.send(b"\0")

    def read_meanwhile(self, *pushes: Any) -> None:
        """As if a round trip had read it: nothing is left in the socket."""
        self._pushes.extend(pushes)

    def told(self, kind: type) -> list[Any]:
        return [command for command in self.said if type(command) is kind]

    def move(self) -> None:
        """A reconnection."""
        old = self._near
        self.on_socket_change(old.fileno(), None)
        old.close()
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self.on_socket_change(None, self._near.fileno())

    # --- BlockingClient's ---

    def call(self, command: Any, *, flags: int = 0, timeout_s: float | None = None, on_reply: Any = None) -> Any:
        self.said.append(command)
        self.limits.append(timeout_s)
        self.on_reply = on_reply
        answer = self.answers.get(type(command))
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            return answer(command) if callable(answer) else answer
        return self._default(command)

    def _default(self, command: Any) -> Any:
        match command:
            case broker.Publish():
                return broker.Published(1)
            case broker.Subscribe() | broker.Pop():
                self._numbers += 1
                return broker.Subscribed(self._numbers)
            case broker.CreateTopic():
                return broker.TopicInfo(command.topic, command.settings, 0, 0, 0, 0, 0, True)
            case broker.Purge() | broker.DeleteTopic():
                return broker.Removed(3)
        return broker.Done()

    def query(self, query: Any, timeout_s: float | None = None) -> Any:
        return self.call(query, timeout_s=timeout_s)

    def room(self, timeout_s: float | None = None) -> None: ...

    def deadline(self, timeout_s: float | None) -> float:
        return 0.0

    def wait_answer(self, box: list[Any], deadline: float, request: str) -> Any:
        if not box:
            raise RequestTimeout(f"{request} was not answered in time")
        if isinstance(box[0], Exception):
            raise box[0]
        return box[0]

    def suspend(self) -> None:
        self.suspended = True

    def send(self, command: Any, *, flags: int = 0, on_reply: Any = None, wait: bool = True) -> None:
        self.said.append(command)
        self._far.send(b"\0")  # the reply

    def send_transient(self, command: Any) -> None:
        self.said.append(("transient", command))

    def wait_answers(self, timeout_s: float | None = None) -> None:
        self.waited += 1

    def flush(self) -> None:
        self.flushed = len(self.said)

    def poll(self, timeout_s: float | None = 0.0) -> list[Any]:
        self.beats += 1
        try:
            self._near.recv(4096)
        except BlockingIOError:
            pass
        return self.take_pushes()

    def take_pushes(self) -> list[Any]:
        pushes = list(self._pushes)
        self._pushes.clear()
        return pushes

    def pending_pushes(self) -> bool:
        return bool(self._pushes)

    def hear(self) -> None: ...

    def connect(self, timeout_s: float | None = None) -> None: ...

    def fileno(self) -> int:
        return self._near.fileno()

    def close(self, end_session: bool = True) -> None:
        self.closed = "closed"
        self._end()

    def collect(self) -> None:
        self.closed = "collected"
        self._end()

    def _end(self) -> None:
        self._near.close()
        self._far.close()


def delivery(consumer: int, number: int, epoch: int = 1, body: str = "x", priority: int = 0) -> broker.Deliver:
    payload = messages.encode(messages.Outgoing(body, 0, "text/plain", "utf-8"), "", "q")
    return broker.Deliver(consumer, number, epoch, priority, 0, payload)
