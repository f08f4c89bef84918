"""A node's log: structured lines on standard error, for people or, as JSON, for programs.

One event a line. The time is UTC; the level and the event come first, so that a line can be read from the left.

A traceback names files, lines and functions, and no local variables: these hold payloads and secrets. A text that
came from outside is written with its control characters escaped, so that it cannot steer a terminal or forge a line.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from disheap.cli.terminal.output import printable

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(level: str, as_json: bool) -> None:
    """For this process, from here on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(as_json)],
            foreign_pre_chain=[  # for what others log through `logging`; our own events bring these along
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(LEVELS[level])


def _renderers(as_json: bool) -> list[Any]:
    if as_json:
        tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer(default=str)]
    lines = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
    )
    return [_escape_controls, lines]


def _escape_controls(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}
