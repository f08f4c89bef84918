"""The pool of the Celery worker in this process, for `reading.demand`.

Here is what the transport knows of a worker: its signals, its tasks, and how many of them its pool runs at once. The
signal `worker_ready` says that there is a worker, and brings its consumer. A task that was reserved and has not ended
takes a slot of the pool. Tasks that wait for a rate limit take none.

With prefork the results come to the event loop, which then looks for a free slot. A thread or a greenlet ends a task
without the loop: `task_postrun` wakes it. Celery notes the end of the task a moment later. So the task counts as ended
from there on.
"""

from __future__ import annotations

import os
import sys
import weakref
from typing import Any

from disheap_kombu.reading import demand

SOLO = "celery.concurrency.solo"
"""Celery loads this module where a worker runs under the solo pool."""


class WorkerPool:
    """Implements `demand.Pool` for a worker. `consumer` is Celery's `Consumer`, and `state` its module
    `celery.worker.state`."""

    def __init__(self, consumer: Any, state: Any) -> None:
        self._consumer = weakref.ref(consumer)
        self._state = state
        self.pid = os.getpid()
        self._ended: list[Any] = []  # requests whose end Celery may not have noted
        self.keeps_buffer = not getattr(consumer.app.conf, "worker_disable_prefetch", False)

    def takes_from(self, channel: Any) -> bool:
        """Whether the worker's tasks come by this channel."""
        task_consumer = getattr(self._consumer(), "task_consumer", None)
        return task_consumer is not None and task_consumer.channel is channel

    def free_slots(self) -> int:
        """The slots of the pool without a task. An autoscaled pool grows when tasks arrive. So the slots that it may
        still get count as well."""
        consumer = self._consumer()
        pool = getattr(consumer, "pool", None)
        if consumer is None or pool is None:
            return demand.CREDIT_MAX  # the worker ends: nothing waits for it
        scaler = getattr(consumer.controller, "autoscaler", None)
        slots = max(1, pool.num_processes or 1, scaler.max_concurrency if scaler is not None else 0)
        return int(slots - self._count_running())

    def note_end(self, task_id: str) -> None:
        """A task has ended in this process. In a child of the pool it is nothing to note."""
        if os.getpid() != self.pid:
            return
        request = self._state.requests.get(task_id)
        if request is not None:
            self._ended.append(request)
        demand.pool_changed()

    def _count_running(self) -> int:
        """The tasks that the pool has, without those that have ended. After a lost connection some releases of Celery
        forget what is reserved, but not what is active."""
        reserved, active = self._state.reserved_requests, self._state.active_requests
        if not self._ended:  # always so under prefork
            return max(len(reserved), len(active))
        while True:
            sizes = len(reserved), len(active)
            ended = list(self._ended)
            running = max(
                sizes[0] - sum(request in reserved for request in ended),
                sizes[1] - sum(request in active for request in ended),
            )
            if sizes == (len(reserved), len(active)):
                break  # no thread has noted an end meanwhile
        for request in ended:
            if request not in reserved and request not in active:
                self._ended.remove(request)
        return running


def leave_before_soft_shutdown(controller: Any) -> None:
    """Has the worker leave its queues when it begins to wait for its tasks (`worker_soft_shutdown_timeout`). Celery
    sends no signal then: the method that waits is the only place to learn of it. Before Celery 5.5 there is none."""
    wait = getattr(controller, "wait_for_soft_shutdown", None)
    if wait is None:
        return

    def leave_and_wait() -> None:
        if controller.app.conf.worker_soft_shutdown_timeout > 0:
            demand.leave_pool()
        wait()

    controller.wait_for_soft_shutdown = leave_and_wait


class _Signals:
    """Connects Celery's signals once."""

    def __init__(self) -> None:
        self._is_connected = False
        self._pool: WorkerPool | None = None

    def connect(self) -> None:
        signals = sys.modules.get("celery.signals")
        if self._is_connected or signals is None:
            return
        self._is_connected = True
        signals.worker_ready.connect(self._on_worker_ready, weak=False, dispatch_uid="disheap")
        signals.task_postrun.connect(self._on_task_postrun, weak=False, dispatch_uid="disheap")
        signals.worker_shutting_down.connect(self._on_shutting_down, weak=False, dispatch_uid="disheap")

    def _on_worker_ready(self, sender: Any = None, **_: Any) -> None:
        self._pool = WorkerPool(sender, sys.modules["celery.worker.state"])
        demand.use_pool(self._pool)
        leave_before_soft_shutdown(getattr(sender, "controller", None))

    def _on_shutting_down(self, **_: Any) -> None:
        """Under the solo pool a task keeps the loop's thread busy, so Celery cancels its consumers when that has
        ended."""
        if SOLO in sys.modules and os.getpid() == getattr(self._pool, "pid", None):
            demand.leave_pool()

    def _on_task_postrun(self, task_id: str = "", **_: Any) -> None:
        if self._pool is not None:
            self._pool.note_end(task_id)


def has_worker() -> bool:
    """Whether a Celery worker runs in this process."""
    return "celery.worker.state" in sys.modules


def revoke_here(task_id: str) -> None:
    """Has the worker of this process treat the task as revoked. It gets the task next."""
    sys.modules["celery.worker.state"].revoked.add(task_id)


_signals = _Signals()


def watch_worker() -> None:
    """Learns of the worker of this process as soon as there is one. Does nothing if Celery is not loaded."""
    _signals.connect()
