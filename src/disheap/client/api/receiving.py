"""BrokerState and consumers of the blocking client: the twin of `consuming`.

Owns the queues between what the node pushes and what the application takes, one for each consumer and pop. They are
bounded by credit. While one consumer waits, what comes for the others is kept for them.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType

from disheap.client.api.delivered import Delivered, told
from disheap.client.core.broker_session import SessionLost
from disheap.client.io.blocking_connection import Pushed
from disheap.client.io.blocking_driver import BlockingClient
from disheap.errors import ConsumerNotFound, LeaseLost, RequestError, SessionExpired
from disheap.protocol import broker


class Inboxes:
    """Who gets which push."""

    def __init__(self, driver: BlockingClient) -> None:
        self.driver = driver
        self._queues: dict[int, deque[Pushed]] = {}

    def begin(self, command: broker.Subscribe | broker.Pop) -> int:
        """Takes the number of the consumer from the reply. Events before the reply do not concern it, such as the end
        of an earlier session."""

        def begun(reply: broker.Reply | RequestError) -> None:
            if isinstance(reply, broker.Subscribed):
                self._sort(self.driver.take_pushes())
                self._queues[reply.consumer] = deque()

        return int(self.driver.request(command, on_reply=begun).consumer)

    def wait_push(self, consumer: int, timeout_s: float | None) -> broker.ConsumerPush | None:
        """Returns the next push for a consumer, or None if none came in time. Raises `SessionExpired` if the session is
        over."""
        clock = self.driver.clock
        deadline = None if timeout_s is None else clock() + timeout_s
        while not (mine := self._queues.setdefault(consumer, deque())):
            left_s = None if deadline is None else deadline - clock()
            if left_s is not None and left_s < 0:
                return None
            self._sort(self.driver.poll(left_s))
        push = mine.popleft()
        if isinstance(push, SessionLost):
            raise SessionExpired("the session lapsed; what it held went back to its topics")
        return push

    def forget(self, consumer: int) -> list[broker.Token]:
        """No more is wanted for a consumer: the leases that were queued for it."""
        self._sort(self.driver.poll())
        queued = self._queues.pop(consumer, ())
        return [(push.id, push.epoch) for push in queued if isinstance(push, broker.Deliver) and push.epoch]

    def _sort(self, pushes: list[Pushed]) -> None:
        for push in pushes:
            if isinstance(push, SessionLost):
                for waiting in self._queues.values():
                    waiting.clear()
                    waiting.append(push)
            else:
                self._queues.setdefault(push.consumer, deque()).append(push)


class Delivery(Delivered):
    """One message under one lease. `with` acks it on success and gives it back on an exception."""

    __slots__ = ("_driver",)
    _driver: BlockingClient

    def __init__(self, driver: BlockingClient, push: broker.Deliver) -> None:
        super().__init__(push)
        self._driver = driver

    def ack(self) -> None:
        """Acknowledge the message. Raises `LeaseLost` if the lease was not ours any more."""
        self._settle(broker.Ack([self.token]))

    def ack_nowait(self) -> None:
        """Acknowledge it without waiting for the reply. Sent with the next request, or when a consumer waits."""
        self.settled = True
        if self._push.epoch and self._driver.holds(self.token):
            self._driver.send(broker.Ack([self.token]))

    def nack(self, *, delay_ms: int = 0, discard: bool = False, release: bool = False, error: str = "") -> None:
        """Give it back, to its old place or after `delay_ms`. Without a delay that of the topic applies
        (`retry_delay_ms`). With `discard` it is dead-lettered, or dropped if the topic has no place for dead letters.
        With `release` the delivery does not count: nothing was done with the message. `error` is what a dead letter
        tells, the first 1024 characters. Raises `LeaseLost`, and `InvalidArgument` for `release` with `discard` or an
        `error`."""
        self._settle(self._nack(delay_ms, discard, release, error))

    def extend(self, lease_ms: int = 0) -> None:
        """The lease ends `lease_ms` from now (0: with the session). Raises `LeaseLost`."""
        settled = self.settled
        self._settle(broker.Extend([self.token], lease_ms))
        self.settled = settled

    def _settle(self, command: broker.Ack | broker.Nack | broker.Extend) -> None:
        self.settled = True
        if not self._push.epoch:
            return
        if not self._driver.holds(self.token):
            raise LeaseLost(f"the lease on message {self.id} was lost, or given back before")
        self._check(self._driver.request(command))

    def __enter__(self) -> Delivery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.settled:
            return
        if error is None:
            self.ack()
        else:
            self.settled = True
            self._driver.give_back([self.token], told(error))


class Consumer:
    """An iterator over deliveries, and a context manager that ends it.

    It subscribes at the first `next` or on entering. When it is closed, deliveries that were not taken from it are
    given back; those taken keep their leases. It ends when the topic is deleted or nothing came for `idle_s`, and
    raises `SessionExpired` when the session lapsed.
    """

    def __init__(self, inboxes: Inboxes, command: broker.Subscribe, idle_s: float | None) -> None:
        self._inboxes, self._driver = inboxes, inboxes.driver
        self._command, self._idle_s = command, idle_s
        self._number: int | None = None
        self._over = False
        self._reason = ""

    @property
    def reason(self) -> str:
        """Why it ended, for people."""
        return self._reason

    def set_credit(self, credit: int, credit_bytes: int = 0) -> None:
        """From now on at most `credit` deliveries not yet settled, and `credit_bytes` of their payloads (0: the
        machine's bound). What is out already stays. A shared credit is changed for its group. Raises `InvalidArgument`,
        and `ConsumerNotFound` at its end."""
        self._open()
        group = self._command.group
        number = 0 if group else self._number or 0
        self._driver.request(broker.SetCredit(number, credit, credit_bytes, group))

    def close(self) -> None:
        """End the consumer. May be called twice."""
        over, self._over = self._over, True
        if over or self._number is None:
            return
        try:
            self._driver.request(broker.Cancel(self._number))
        except (ConsumerNotFound, SessionExpired):
            pass  # it is gone, as was wanted
        finally:
            self._driver.give_back(self._inboxes.forget(self._number))

    def __iter__(self) -> Consumer:
        return self

    def __next__(self) -> Delivery:
        if self._over:
            raise StopIteration
        push = self._wait_push()
        if isinstance(push, broker.Deliver):
            return Delivery(self._driver, push)
        if push is None:
            self.close()
        else:
            self._over = True
            self._reason = push.reason if isinstance(push, broker.ConsumerEnded) else ""
        raise StopIteration

    def __enter__(self) -> Consumer:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> int:
        if self._number is None and not self._over:
            self._number = self._inboxes.begin(self._command)
        return self._number or 0

    def _wait_push(self) -> broker.ConsumerPush | None:
        try:
            return self._inboxes.wait_push(self._open(), self._idle_s)
        except SessionExpired:
            self._over = True
            raise
