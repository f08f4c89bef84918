"""Chords: the body is sent once, however workers and nodes die.

A chord is a barrier in the broker, whose message is the task `disheap.finish_chord`. The command that stores the result
of the last member publishes this task. So it does not matter when that member is acknowledged, and whether its worker
lives on. The task is acknowledged late. It reads the results, and sends the body in one command that closes the
barrier. If it is carried out again, that command is refused, and nothing is sent.

The task goes to the queue of the body, as Celery's `chord_unlock` does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Any

from celery import states
from celery.canvas import maybe_signature
from celery.exceptions import ChordError, NotRegistered, Retry
from celery.result import GroupResult, allow_join_result

from disheap.errors import BarrierClosed, BatchTooLarge
from disheap.protocol import broker
from disheap_celery.failures import CONNECTION_ERRORS

NAME = "disheap.finish_chord"
RETRY_S = 1.0
"""The pause before the body is sent again, when no node took it."""
ROUTING = ("exchange", "exchange_type", "routing_key")

_logger = logging.getLogger(__name__)


def add_task(app: Any) -> Any:
    """Adds the task that finishes a chord to an application. Celery calls this when it finalizes one."""

    @app.task(
        name=NAME,
        bind=True,
        shared=False,
        lazy=False,
        acks_late=True,
        reject_on_worker_lost=True,
        ignore_result=True,
        max_retries=None,
    )  # type: ignore[untyped-decorator]
    def finish_chord(self: Any, group_id: str, body: Any) -> None:
        finish(self, group_id, body)

    return finish_chord


def is_member(request: Any) -> bool:
    """Whether the task of a request is a member of a chord."""
    return bool(request.chord and request.group and request.id)


def begin(backend: Any, group_id: str, body: Any) -> bool:
    """Creates the barrier of a chord. Returns False if the broker of the application cannot publish its message."""
    app = backend.app
    task = app.tasks.get(NAME)
    if task is None:
        return False
    with app.producer_or_acquire() as producer:
        gather = _gather(backend, producer)
        if gather is None:
            return False
        with gather() as commands:
            task.apply_async(
                (group_id, body), producer=producer, retry=False, add_to_parent=False, **_routing(app, body)
            )
    name, lifetime_ms = backend.barrier_of(group_id), backend.barrier_lifetime_ms()
    message = commands[0]  # an event may follow
    backend.results.call(broker.SetBarrier(name, 0, 0, message, lifetime_ms, reopens=True))
    return True


def finish(task: Any, group_id: str, body: Any) -> None:
    """Sends the body with the results of the members, or calls its error callbacks. Does nothing if that was done."""
    app = task.app
    backend, callback = app.backend, maybe_signature(body, app=app)
    barrier = backend.barrier_of(group_id)
    try:
        info = backend.results.info(barrier)
        if info.is_closed:
            return
        if not info.size:
            _fail_if_pending(backend, barrier, callback)
            return
        try:
            parts = list(backend.results.parts(barrier))
            members = _joined(backend, group_id, parts)
            with _as_member(task, backend, parts):
                _send(backend, barrier, callback, members)
        except ChordError as error:
            _fail(backend, barrier, callback, error)
    except (Retry, BarrierClosed):
        raise
    except _recoverable(app) as error:
        raise task.retry(exc=error, countdown=RETRY_S) from error


@contextmanager
def _as_member(task: Any, backend: Any, parts: list[broker.Part]) -> Iterator[None]:
    """Within this block, the task that runs goes by the id of the member that ended last. So the body has that one as
    its parent, as with other backends."""
    request = task.request
    own = request.id
    request.id = backend._strip_prefix(parts[-1].key) if parts else own
    try:
        yield
    finally:
        request.id = own


def _joined(backend: Any, group_id: str, parts: list[broker.Part]) -> list[Any]:
    """The results of the members, in the order of the header. Raises `ChordError` for a member that failed, or whose
    result is gone."""
    found = [_result_of(backend, part) for part in sorted(parts, key=attrgetter("order"))]
    header = GroupResult.restore(group_id, backend=backend, app=backend.app)
    if header is None:
        return found
    header.on_ready()  # as Celery does: all members have ended
    with allow_join_result():
        shaped: list[Any] = header.join_native(timeout=backend.app.conf.result_chord_join_timeout, propagate=True)
    return shaped


def _result_of(backend: Any, part: broker.Part) -> Any:
    task_id = backend._strip_prefix(part.key)
    if part.value is None:
        raise ChordError(f"Dependency {task_id} has no result any more: it expired, or it was forgotten")
    meta = backend.decode_result(part.value)
    if meta["status"] in backend.EXCEPTION_STATES:
        error = ChordError(f"Dependency {task_id} raised {meta['result']!r}")
        raise error from meta["result"] if isinstance(meta["result"], BaseException) else None
    return meta["result"]


def _send(backend: Any, barrier: str, callback: Any, members: list[Any]) -> None:
    """Sends the body and closes the barrier, in one command. Raises `ChordError` if the body cannot be sent."""
    app = backend.app
    try:
        with app.producer_or_acquire() as producer:
            gather = _gather(backend, producer)
            if gather is not None:
                with gather() as commands:
                    callback.apply_async((members,), producer=producer, retry=False, add_to_parent=False)
                if _close_with(backend, barrier, commands):
                    return
        callback.apply_async((members,), add_to_parent=False)  # too many messages for one command
    except Exception as error:
        if isinstance(error, _recoverable(app)):
            raise
        _logger.exception("the body of a chord cannot be sent: %r", error)
        raise ChordError(f"Callback error: {error!r}") from error
    backend.results.call(broker.CloseBarrier(barrier))


def _close_with(backend: Any, barrier: str, commands: list[broker.Publish]) -> bool:
    """Closes the barrier and publishes, if nobody else has. Returns False if it is too much for one command."""
    try:
        backend.results.call(broker.Batch([broker.CloseBarrier(barrier), *commands]))
    except BarrierClosed:
        _logger.info("the body of the chord %s was sent before", barrier)
    except BatchTooLarge:
        return False
    return True


def _fail_if_pending(backend: Any, barrier: str, callback: Any) -> None:
    """The barrier is gone: this task waited longer than a chord is remembered. Does nothing if the body was sent."""
    if callback.id and backend.get_state(callback.id) == states.PENDING:
        _fail(backend, barrier, callback, ChordError("the chord is forgotten: its last member ended too long ago"))


def _fail(backend: Any, barrier: str, callback: Any, error: ChordError) -> None:
    """The chord has failed: stores the error as the result of the body, and calls its error callbacks."""
    _logger.error("chord %s: %s", barrier, error)
    try:
        raise error
    except ChordError:
        backend.chord_error_from_stack(callback, error)
    with suppress(BarrierClosed):
        backend.results.call(broker.CloseBarrier(barrier))


def _gather(backend: Any, producer: Any) -> Callable[[], Any] | None:
    """How to gather what a producer publishes. None if its broker is not the one that has the results."""
    channel = producer.channel
    gather: Callable[[], Any] | None = getattr(channel, "gather", None)
    return gather if gather is not None and channel.cluster == backend.results.cluster() else None


def _recoverable(app: Any) -> tuple[type[Exception], ...]:
    """The errors of the result backend, and of the application's broker, after which they may take a message."""
    connection = app.connection_for_write()
    known = (*connection.recoverable_connection_errors, *connection.recoverable_channel_errors)
    return (*CONNECTION_ERRORS, *known)


def _routing(app: Any, body: Any) -> dict[str, Any]:
    """Where the task that finishes a chord goes: where its body goes."""
    try:
        body_type = getattr(body, "type", None)
    except NotRegistered:
        body_type = None
    queue = body.options.get("queue") or getattr(body_type, "queue", None)
    if queue is None:
        queue = app.amqp.router.route({}, body.name)["queue"].name
    priority = body.options.get("priority", getattr(body_type, "priority", None))
    routing = {name: body.options[name] for name in ROUTING if body.options.get(name) is not None}
    return {"queue": queue, "priority": priority, **routing}
