"""Loggers: structured events that go to the standard library's logging, and nowhere until its owner says so.

A library does not print. The owner of the process configures `logging`. `disheap serve` does so in
`cli.terminal.logs`, where events become lines for people or JSON for programs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import structlog

if TYPE_CHECKING:
    import asyncio

ROOT = "disheap"
LINES_AT_ONCE = 10
"""Lines about strangers that one interval takes, for each kind: enough to see who they are."""
INTERVAL_S = 10.0
"""One line a second on average: a log rotated at 100 MB lasts for a week of it."""

_bound: ContextVar[tuple[Mapping[str, Any], ...]] = ContextVar("disheap_log_fields", default=())

logging.getLogger(ROOT).addHandler(logging.NullHandler())


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """For a module: `get_logger(__name__)`. All are below the logger `disheap`, plugins too."""
    name = name if name == ROOT or name.startswith(f"{ROOT}.") else f"{ROOT}.{name}"
    return cast(
        "structlog.stdlib.BoundLogger",
        structlog.wrap_logger(
            logging.getLogger(name),
            wrapper_class=structlog.stdlib.BoundLogger,
            context_class=dict,
            cache_logger_on_first_use=True,
            processors=[
                structlog.stdlib.filter_by_level,
                _add_bound_fields,
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True),
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
        ),
    )


@contextmanager
def log_fields(fields: Mapping[str, Any]) -> Iterator[None]:
    """Events that are logged within have these fields too, such as the node's name. So have those of every callback and
    task that is scheduled within. The mapping is kept, not copied: what is added to it later counts as well."""
    token = _bound.set((*_bound.get(), fields))
    try:
        yield
    finally:
        with suppress(ValueError):  # a coroutine that is given up may be closed in another context, with its own fields
            _bound.reset(token)


def _add_bound_fields(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A field that the event itself has counts."""
    for fields in _bound.get():
        for name, value in fields.items():
            event.setdefault(name, value)
    return event


class LineLimiter:
    """Bounds how often strangers can make a node write one kind of log line. `loop` is the clock.

    What is left out is counted, and the count is written at the end of the interval.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._written = self._left_out = 0
        self._ends_at = 0.0

    def write(self, log: Callable[..., Any], event: str, **values: Any) -> None:
        """`log` is a logger's method, such as `log.warning`."""
        if self._left_out == 0 and self._loop.time() >= self._ends_at:
            self._written, self._ends_at = 0, self._loop.time() + INTERVAL_S
        if self._written < LINES_AT_ONCE:
            self._written += 1
            log(event, **values)
            return
        if self._left_out == 0:
            self._loop.call_at(self._ends_at, self._say_how_many, log, event)
        self._left_out += 1

    def _say_how_many(self, log: Callable[..., Any], event: str) -> None:
        left_out, self._left_out, self._ends_at = self._left_out, 0, 0.0
        log(f"{event}: further lines were left out", left_out=left_out)
