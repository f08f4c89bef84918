"""A `BlockingClient` without a node. It answers from a table, delivers the pushes of a test, and records its calls."""

from __future__ import annotations

import socket
from collections import deque
from typing import Any

from disheap.client.core.url import BrokerUrl
from disheap.errors import RequestTimeout
from disheap.protocol import broker
from disheap_kombu.publishing import messages


class FakeDriver:
    """Stands in for `BlockingClient`. `commands` has every command in the order of sending."""

    heartbeat_s = 5.0
    ready = True
    session_id = 1
    session_timeout_ms = 15_000
    holds_anything = False
    is_over = False
    welcome: Any = None
    address = "h1:8400"

    def __init__(self) -> None:
        self.url = BrokerUrl(timeout_s=1.0)
        self.on_socket_change: Any = None
        self.wants_poll_in = 5.0
        self.commands: list[Any] = []
        self.flushed_commands = 0
        self.polls = 0
        self.waits = 0
        self.closed: str | None = None
        self.suspended = False
        self.timeouts: list[float | None] = []  # of each call, in seconds; None for the default
        self.on_reply: Any = None  # of the last call
        self.answers: dict[type, Any] = {}
        self.arriving: deque[Any] = deque()  # answers that come while somebody waits
        self.unanswered: deque[Any] = deque()  # `on_reply` of what was sent without waiting, in order
        self._pushes: deque[Any] = deque()
        self._numbers = 0
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)

    # --- for tests ---

    def receive(self, *pushes: Any) -> None:
        """Queue pushes and make the socket readable."""
        self._pushes.extend(pushes)
        self._far.send(b"\0")

    def receive_during_call(self, *pushes: Any) -> None:
        """Queue pushes that a call has read already. The socket stays empty."""
        self._pushes.extend(pushes)

    def commands_of(self, kind: type) -> list[Any]:
        """The commands of one class that were sent, in order."""
        return [command for command in self.commands if type(command) is kind]

    def answer_sent(self, *results: Any) -> None:
        """The answers to what was sent with an `on_reply`, the oldest first."""
        for result in results:
            self.unanswered.popleft()(result)

    def reconnect(self) -> None:
        """Replace the socket, as a reconnection does."""
        old = self._near
        self.on_socket_change(old.fileno(), None)
        old.close()
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self.on_socket_change(None, self._near.fileno())

    # --- BlockingClient's ---

    def request(self, command: Any, *, flags: int = 0, timeout_s: float | None = None, on_reply: Any = None) -> Any:
        self.commands.append(command)
        self.timeouts.append(timeout_s)
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
            case broker.Batch():
                return broker.Batched([1] * len(command.items))
            case broker.Subscribe() | broker.Pop():
                self._numbers += 1
                return broker.Subscribed(self._numbers)
            case broker.CreateTopic():
                return broker.TopicInfo(command.topic, command.settings, 0, 0, 0, 0, 0, True)
            case broker.ListExchanges():
                return broker.ExchangeInfos([(command.exchange, "direct")], [], 1)
            case broker.Purge() | broker.DeleteTopic():
                return broker.Removed(3)
        return broker.Done()

    def query(self, query: Any, timeout_s: float | None = None) -> Any:
        return self.request(query, timeout_s=timeout_s)

    def room(self, timeout_s: float | None = None) -> None: ...

    def deadline(self, timeout_s: float | None) -> float:
        return 0.0

    def wait_answer(self, box: list[Any], deadline: float, request: str) -> Any:
        while not box and self.arriving:
            self.answer_sent(self.arriving.popleft())
        if not box:
            raise RequestTimeout(f"{request} was not answered in time")
        if isinstance(box[0], Exception):
            raise box[0]
        return box[0]

    def suspend(self) -> None:
        self.suspended = True

    def send(self, command: Any, *, flags: int = 0, on_reply: Any = None, wait: bool = True) -> None:
        answer = self.answers.get(type(command))
        if isinstance(answer, Exception):
            raise answer
        self.commands.append(command)
        if on_reply is not None:
            self.unanswered.append(on_reply)
            return
        self._far.send(b"\0")  # the reply

    def send_transient(self, command: Any) -> None:
        self.commands.append(("transient", command))

    def wait_answers(self, timeout_s: float | None = None) -> None:
        self.waits += 1

    def flush(self) -> None:
        self.flushed_commands = len(self.commands)

    def poll(self, timeout_s: float | None = 0.0) -> list[Any]:
        self.polls += 1
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

    def check_after_pause(self) -> None: ...

    def connect(self, timeout_s: float | None = None) -> None: ...

    def fileno(self) -> int:
        return self._near.fileno()

    def close(self, end_session: bool = True) -> None:
        self.closed = "closed"
        self._end()

    def abort(self) -> None:
        self.closed = "aborted"
        self._end()

    def _end(self) -> None:
        self._near.close()
        self._far.close()


def delivery(consumer: int, number: int, epoch: int = 1, body: str = "x", priority: int = 0) -> broker.Deliver:
    payload = messages.encode(messages.Outgoing(body, 0, "text/plain", "utf-8"), "", "q")
    return broker.Deliver(consumer, number, epoch, priority, 0, payload)
