"""Publishes that return at once, while a bounded number of them waits for confirmation.

The option `{"confirm": "window"}` of a connection makes a `Window`. It holds the messages that were sent and have no
answer yet, at most `limit` of them and at most `WINDOW_BYTES_MAX` of payload. A publish into a full window waits for
the oldest. The session sends what has no answer again after a change of the leader, under the same numbers, so each
message is enqueued once.

A publish that fails has returned before. So its error is raised by whatever comes next: another publish, `flush`, the
end of the connection, or the end of the process. That publish is not sent. The error names the messages that failed.

Owns what is under way and what has failed. One window belongs to one kombu connection, and outlives the sessions of
that connection. It refers to the driver, and by that to the connection, only while it has something to report. So a
connection that owes nothing can be freed. Takes no lock of its own: it uses that of the `Connection` to which it is
attached. Refuses to know channels and event loops.
"""

from __future__ import annotations

import atexit
import sys
import weakref
from threading import RLock
from time import monotonic
from typing import Any

from amqp.exceptions import NotFound

from disheap.client.io.blocking_driver import BlockingClient
from disheap.errors import ConnectionLost, DisheapError, NotSent, RequestError, RequestTimeout
from disheap.protocol import broker
from disheap_kombu.failures import (
    BrokerUnreachable,
    EarlierPublishesFailed,
    FailedPublish,
    PublishOutcomeUnknown,
    QueueFull,
    refusal_of_full_queues,
    translated,
)

WINDOW_BYTES_MAX = 16 << 20
"""Payload under way, in bytes. A larger message is sent when the window is empty."""
EXIT_TIMEOUT_S = 10.0
"""The longest time for which the end of a process waits for confirmations."""
LEFT = "the connection was given up before its confirmation came"


class _UnderWay:
    """A message without an answer. The driver calls it with the answer."""

    __slots__ = ("box", "declared_in", "exchange", "message", "number", "routing_key", "size", "window")

    def __init__(self, window: Window, number: int, message: Any, exchange: str, routing_key: str) -> None:
        self.window, self.number, self.message = window, number, message
        self.exchange, self.routing_key = exchange, routing_key
        self.size = 0
        self.declared_in = 0  # the session in which its queue was declared; 0 if it was not
        self.box: list[Any] = []  # where `BlockingClient.wait_answer` looks for the answer

    def __call__(self, result: Any) -> None:
        self.box.append(result)
        self.window.answered(self, result)


class Window:
    """The publishes of one kombu connection that wait for their confirmation, and those that failed."""

    def __init__(self, limit: int) -> None:
        """`limit`: messages under way at once."""
        self.limit = limit
        self._lock = RLock()
        self._driver: BlockingClient | None = None
        self._number = 0
        self._bytes = 0
        self._under_way: dict[int, _UnderWay] = {}  # in the order of publishing
        self._failed: list[FailedPublish] = []

    def __len__(self) -> int:
        """How many messages wait for their confirmation."""
        return len(self._under_way)

    def attach(self, lock: Any) -> None:
        """From now on `lock` protects the window, and the driver of each publish."""
        self._lock = lock

    # --- with the lock held ---

    def publish(
        self,
        driver: BlockingClient,
        command: broker.Publish,
        sent: tuple[Any, str, str],
        declared_in: int,
        timeout_s: float,
    ) -> None:
        """Sends a message by `driver`, and waits at most `timeout_s` seconds while the window is full. `sent` is the
        message, its exchange and its routing key in the application's words. `declared_in` is the session in which its
        queue was declared, 0 if it was not. If it raises `EarlierPublishesFailed` or kombu's errors, the message was
        not sent."""
        self.raise_failed()
        size = len(command.message.payload)
        if self._is_full(size):
            self._wait_room(driver, size, timeout_s)
            self.raise_failed()
        self._number += 1
        entry = _UnderWay(self, self._number, *sent)
        entry.size, entry.declared_in = size, declared_in
        self._under_way[entry.number] = entry
        self._bytes += size
        self._driver = driver
        try:
            driver.send(command, on_reply=entry)
        except DisheapError as error:
            del self._under_way[entry.number]
            self._bytes -= size
            self._release()
            raise translated(error) from error
        driver.flush()

    def answered(self, entry: _UnderWay, result: Any) -> None:
        """The answer to a message has come."""
        if self._under_way.pop(entry.number, None) is not None:
            self._bytes -= entry.size
        error = self._error(entry, result)
        if error is not None:
            self._failed.append(FailedPublish(entry.message, entry.exchange, entry.routing_key, error))
        self._release()

    def raise_failed(self) -> None:
        """Raises `EarlierPublishesFailed` once for all messages that have failed since the last time."""
        if self._failed:
            failed, self._failed = self._failed, []
            self._release()
            raise EarlierPublishesFailed(failed)

    def lose(self, why: str = LEFT) -> None:
        """No answer will come for what is under way."""
        lost, self._under_way, self._bytes = self._under_way, {}, 0
        for entry in lost.values():
            error = PublishOutcomeUnknown(why)
            self._failed.append(FailedPublish(entry.message, entry.exchange, entry.routing_key, error))

    def forget(self) -> None:
        """In the child of a fork: what is under way is the parent's."""
        self._lock, self._driver = RLock(), None
        self._under_way, self._bytes, self._failed = {}, 0, []

    def _release(self) -> None:
        """Forgets the driver if nothing is owed. The driver refers to the kombu connection, for which `_windows` keeps
        this window: with both references, neither would ever be freed."""
        if not self._under_way and not self._failed:
            self._driver = None

    # --- from any thread ---

    def flush(self, timeout_s: float | None = None) -> None:
        """Waits until nothing is under way, and raises `EarlierPublishesFailed`. Raises as `wait`, too."""
        with self._lock:
            self.wait(timeout_s)
            self.raise_failed()

    def wait(self, timeout_s: float | None = None) -> None:
        """Waits until nothing is under way, at most `timeout_s` seconds; None for the URL's `confirm_timeout_s`. Raises
        `PublishOutcomeUnknown` when the time is over; the messages stay under way."""
        with self._lock:
            driver = self._driver
            if not self._under_way or driver is None:
                return
            try:
                deadline = driver.deadline(driver.url.confirm_s if timeout_s is None else timeout_s)
                while self._under_way:
                    self._wait_oldest(driver, deadline)
            except RequestTimeout as error:
                raise PublishOutcomeUnknown(
                    f"{len(self)} published messages have no confirmation in time ({error}). They are still under way: "
                    "flush again"
                ) from error
            except DisheapError as error:
                raise translated(error, publishing=True) from error

    def _is_full(self, size: int) -> bool:
        if not self._under_way:
            return False
        return len(self._under_way) >= self.limit or self._bytes + size > WINDOW_BYTES_MAX

    def _wait_room(self, driver: BlockingClient, size: int, timeout_s: float) -> None:
        deadline = driver.deadline(timeout_s)
        try:
            while self._is_full(size):
                self._wait_oldest(driver, deadline)
        except RequestTimeout as error:
            raise BrokerUnreachable(
                f"{len(self)} messages wait for their confirmation, and none came within {timeout_s:g} s ({error}). "
                "This message was not sent"
            ) from error

    def _wait_oldest(self, driver: BlockingClient, deadline: float) -> None:
        box = next(iter(self._under_way.values())).box
        try:
            driver.wait_answer(box, deadline, "a publish in the window")
        except RequestError:
            if not box:
                raise  # not the answer: that is noted as a failure
        finally:
            box.clear()  # the traceback of an error holds this frame

    def _error(self, entry: _UnderWay, result: Any) -> Exception | None:
        if isinstance(result, ConnectionLost) and not isinstance(result, NotSent):
            return PublishOutcomeUnknown(str(result))
        if isinstance(result, DisheapError):
            return translated(result, publishing=True)
        if result.refused:
            return QueueFull(refusal_of_full_queues(result))
        driver = self._driver
        if not result.routed and entry.declared_in and driver is not None and driver.session_id != entry.declared_in:
            error: Exception = NotFound(
                "the message found no queue, and what was declared before the session lapsed may be gone: declare again"
            )
            return error
        return None


_windows: weakref.WeakKeyDictionary[Any, Window] = weakref.WeakKeyDictionary()


def window_of(owner: Any, limit: int) -> Window | None:
    """The window of a kombu connection; the same one each time that it connects. None without a `limit`."""
    if not limit:
        return None
    window = _windows.get(owner)
    if window is None:
        if not _windows:
            _watch_the_end()
        window = _windows[owner] = Window(limit)
    window.limit = limit
    return window


def flush_publishes(timeout_s: float | None = None) -> None:
    """Waits until everything that this process has published is confirmed, over all connections with the option
    `{"confirm": "window"}`, at most `timeout_s` seconds; None for the URL's `confirm_timeout_s`. From any thread.

    Raises `EarlierPublishesFailed` with the messages that failed. Raises `PublishOutcomeUnknown` when the time is over;
    the messages stay under way."""
    failed: list[FailedPublish] = []
    unknown: Exception | None = None
    deadline = None if timeout_s is None else monotonic() + timeout_s
    for window in list(_windows.values()):
        try:
            window.flush(None if deadline is None else max(0.0, deadline - monotonic()))
        except EarlierPublishesFailed as error:
            failed += error.failed
        except Exception as error:
            unknown = error
    if failed:
        raise EarlierPublishesFailed(failed) from unknown
    if unknown is not None:
        raise unknown


def _watch_the_end() -> None:
    """May be called again."""
    atexit.unregister(flush_at_exit)
    atexit.register(flush_at_exit)
    signals = sys.modules.get("celery.signals")
    if signals is not None and hasattr(signals, "worker_process_shutdown"):  # such a process skips `atexit`
        signals.worker_process_shutdown.connect(flush_at_exit, weak=False, dispatch_uid="disheap")


def flush_at_exit(**_: Any) -> None:
    """`flush_publishes` with a bound, at the end of a process. Python, or Celery in a process of its pool, shows what
    it raises."""
    flush_publishes(EXIT_TIMEOUT_S)
