"""The result backend that Celery loads for `disheap://` and, over TLS, `disheaps://`.

A result is a value under the key of its task (docs/reference/values.md). A success is final, so a task that is carried
out twice does not replace it, and nothing is read before it is written. Whoever waits is pushed the result.

A chord is a barrier. A member's result is stored and counted in one command, so a member that is delivered again counts
once. The command that stores the last one publishes the task that carries out the body (`chords`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import signals, states
from celery.backends.asynchronous import AsyncBackendMixin
from celery.backends.base import BaseKeyValueStoreBackend
from celery.result import GroupResult, ResultSet
from celery.utils.functional import regen

from disheap.client.core import url as urls
from disheap.protocol import broker
from disheap_celery import chords, options, results
from disheap_celery.consumer import ResultConsumer
from disheap_celery.failures import CONNECTION_ERRORS, ResultTooLarge

CHORD_EXPIRES_S = 86_400
"""Without `result_chord_expires`, a chord is forgotten a day after its last change, or later, if results are kept
longer. The result of a member is kept as long: the others may take longer than `result_expires`."""
GENERATED: type = type(regen(iter(())))
"""The members of a chord whose header is a generator. It is read while its tasks are sent, and not before."""
TRACEBACK_CHARACTERS = 4_000
"""What is kept of the traceback of a failure that is too large to be stored as a whole."""

signals.worker_process_shutdown.connect(results.close_all, weak=False)
signals.worker_shutdown.connect(results.close_all, weak=False)


def _as_text(value: Any) -> str:
    """An id or a key as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


class DisheapBackend(BaseKeyValueStoreBackend, AsyncBackendMixin):  # type: ignore[misc]
    """Celery calls its methods. See `celery.backends.base` for what they mean."""

    key_t = _as_text
    supports_autoexpire = True
    supports_native_join = True
    supports_result_compression = True
    supports_failure_expires = True
    connection_errors = CONNECTION_ERRORS

    def __init__(self, url: str | None = None, **kwargs: Any) -> None:
        kwargs.pop("expires_type", None)
        super().__init__(url=url, expires_type=int, **kwargs)
        failure_expires = self.app.conf.get("result_failure_expires")
        self.failure_expires = (
            self.expires if failure_expires is None else self.prepare_expires(failure_expires, type=int)
        )
        chord_expires = self.app.conf.get("result_chord_expires")
        if chord_expires is not None:
            self.chord_lifetime_s: int = self.prepare_expires(chord_expires, type=int)
        else:
            self.chord_lifetime_s = max(self.expires or 0, CHORD_EXPIRES_S)
        given = self.app.conf.get("result_backend_transport_options") or {}
        self._url, virtual_host = options.results_url(url or "disheap://", given)
        if virtual_host:
            for kind in ("task_keyprefix", "group_keyprefix", "chord_keyprefix"):
                setattr(self, kind, f"{virtual_host}/{getattr(self, kind)}")
        self.results = results.shared(self._url)
        self._completing = threading.local()
        self.result_consumer = ResultConsumer(
            self,
            self.app,
            self.accept,
            self._pending_results,
            self._pending_messages,
            url=self._url,
            results=self.results,
        )

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return super().__reduce__(args, {**(kwargs or {}), "expires": self.expires, "url": self.url})

    def as_uri(self, include_password: bool = False) -> str:
        """The URL, without whatever could be a secret."""
        return urls.redact(self.url or "disheap://")

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Whether to try again may help. Celery asks with `result_backend_always_retry`."""
        return isinstance(exc, CONNECTION_ERRORS)

    # --- keys and values ---

    def get(self, key: str) -> bytes | None:
        """The value under a key, or None."""
        return self.results.values([key]).get(key)

    def mget(self, keys: Iterable[str]) -> list[bytes | None]:
        """The values under some keys, in their order."""
        wanted = list(keys)
        found = self.results.values(wanted)
        return [found.get(key) for key in wanted]

    def set(self, key: str, value: Any) -> None:
        """Stores what is no result of a task, such as a group."""
        self.results.call(broker.SetValue(key, _as_bytes(value), _milliseconds(self.expires)))

    def delete(self, key: str) -> None:
        """Drops a value."""
        self.results.delete([key])

    def forget(self, task_id: str) -> None:
        """Drops the result of a task."""
        super().forget(task_id)
        self.result_consumer.cancel_for(task_id)

    # --- results ---

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any
    ) -> Any:
        """Stores the state and the result of a task. If it is a member of a chord that has just ended, it is counted
        there by the same command."""
        try:
            self._store(task_id, result, state, traceback, request)
        except ResultTooLarge as error:
            if state not in self.EXCEPTION_STATES:
                raise
            shown = None if traceback is None else str(traceback)[-TRACEBACK_CHARACTERS:]
            self._store(task_id, self.encode_result(error, state), state, shown, None)
        return result

    def _store(self, task_id: str, result: Any, state: str, traceback: Any, request: Any) -> None:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = _as_text(task_id)
        member = self._member(task_id, state)
        self._set_result(task_id, _as_bytes(self.encode(meta)), state, member)

    def _set_result(self, task_id: str, value: bytes, state: str, member: Any) -> None:
        expires_s = self.failure_expires if state == states.FAILURE else self.expires
        stage = broker.STAGE_INTERIM
        if state in states.READY_STATES:
            stage = broker.STAGE_FINAL if state == states.SUCCESS else broker.STAGE_DONE
        barrier, order = "", 0
        if member is not None:
            barrier, order = self.barrier_of(member.group), _order(member)
            expires_s = max(expires_s, self.chord_lifetime_s) if expires_s and self.chord_lifetime_s else 0
        key = self.get_key_for_task(task_id)
        self.results.call(broker.SetValue(key, value, _milliseconds(expires_s), stage, barrier, order))
        if member is not None:
            self._completing.request, self._completing.counted = None, (member.id, member.group)

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float | None = None,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        max_iterations: int | None = None,
        READY_STATES: Any = states.READY_STATES,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(id, meta) of each result, as they come. With `max_iterations` only those that are there."""
        ids = list(dict.fromkeys(_as_text(one) for one in task_ids))
        if max_iterations:
            yield from self._ready(ids, READY_STATES)
            return
        found = ResultSet([self.app.AsyncResult(one) for one in ids], app=self.app)
        for result in found.results:
            self.add_pending_result(result)
        wait = {"timeout": timeout, "on_message": on_message, "on_interval": on_interval}
        yield from self.iter_native(found, no_ack=no_ack, **wait)

    def _ready(self, ids: list[str], ready: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        values = self.mget([self.get_key_for_task(one) for one in ids])
        for task_id, value in zip(ids, values, strict=True):
            meta = None if value is None else self.decode_result(value)
            if meta is not None and meta["status"] in ready:
                yield task_id, meta

    def iter_native(self, result: Any, no_ack: bool = True, **kwargs: Any) -> Iterator[Any]:
        """(id, meta) of the results of a set, as they come."""
        if result.results:
            yield from super().iter_native(result, no_ack=no_ack, **kwargs)

    # --- chords ---

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> Any:
        """A task has succeeded. As a member of a chord it is counted."""
        with self._completes(request):
            return super().mark_as_done(task_id, result, request, store_result, state)

    def mark_as_failure(self, task_id: str, exc: Any, traceback: Any = None, request: Any = None, **more: Any) -> Any:
        """A task has failed. As a member of a chord it is counted."""
        with self._completes(request):
            return super().mark_as_failure(task_id, exc, traceback=traceback, request=request, **more)

    def mark_as_revoked(self, task_id: str, reason: str = "", request: Any = None, **more: Any) -> Any:
        """A task was revoked. As a member of a chord it is counted."""
        with self._completes(request):
            return super().mark_as_revoked(task_id, reason, request=request, **more)

    @contextmanager
    def _completes(self, request: Any) -> Iterator[None]:
        """A task has ended. If it is a member of a chord, it is counted when its result is stored."""
        self._completing.request = request if request is not None and chords.is_member(request) else None
        self._completing.counted = None
        try:
            yield
        finally:
            self._completing.request = self._completing.counted = None

    def _member(self, task_id: str, state: str) -> Any:
        """The request of the task whose result is stored, if it is a member of a chord and has not been counted."""
        request = getattr(self._completing, "request", None)
        return request if request is not None and request.id == task_id and state in states.READY_STATES else None

    def on_chord_part_return(self, request: Any, state: str, result: Any, **_: Any) -> None:
        """A member of a chord has ended. It is counted already, unless its result is not stored."""
        if not chords.is_member(request):
            return
        if getattr(self._completing, "counted", None) == (request.id, request.group):
            return
        meta = self._get_result_meta(self.encode_result(result, state), state, None, request)
        meta["task_id"] = request.id
        self._set_result(request.id, _as_bytes(self.encode(meta)), state, request)

    def barrier_of(self, group_id: str) -> str:
        """The name of the barrier of a chord."""
        return str(self.get_key_for_chord(group_id))

    def barrier_lifetime_ms(self) -> int:
        """How long a chord is remembered after its last change. 0: until its body is sent."""
        return _milliseconds(self.chord_lifetime_s)

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """How many members the chord waits for. Celery says it before it sends the last one."""
        self.results.call(
            broker.SetBarrier(self.barrier_of(group_id), chord_size, lifetime_ms=self.barrier_lifetime_ms())
        )

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """The chord waits for one more member."""
        self.results.call(broker.SetBarrier(self.barrier_of(chord_id), more=1, lifetime_ms=self.barrier_lifetime_ms()))

    def apply_chord(self, header_result_args: tuple[Any, ...], body: Any, **kwargs: Any) -> None:
        """A chord begins. Its members are sent after this. If the tasks go through another broker, or another cluster,
        Celery's own task looks again and again whether the members have ended."""
        self.ensure_chords_allowed()
        group_id, members = header_result_args[:2]
        is_generator = isinstance(members, GENERATED)
        if not is_generator and any(isinstance(one, GroupResult) for one in members):
            # The body gets the results in the shape of the header.
            self.app.GroupResult(*header_result_args).save(backend=self)
        if not chords.begin(self, group_id, body):
            self.fallback_chord_unlock(self.app.GroupResult(*header_result_args), body, **kwargs)


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _milliseconds(seconds: float | None) -> int:
    """0 for never."""
    return max(1, int(seconds * 1000)) if seconds else 0


def _order(request: Any) -> int:
    """The place of a member in the header of its chord. Members without one come last."""
    return broker.PRIORITY_MAX if request.group_index is None else int(request.group_index)
