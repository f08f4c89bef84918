"""Loggers: structured events that go to the standard library's logging, and nowhere until its owner says so.

A library does not print. Whoever runs a node in a process of their own configures `logging` as they like; `disheap
serve` does so in `cli.logs`, where events become lines for people or JSON for programs.
"""

from __future__ import annotations

import logging
from typing import cast

import structlog

ROOT = "disheap"

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
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(fmt="%Y-%m-%dT%H:%M:%S.%fZ", utc=True),
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
        ),
    )
