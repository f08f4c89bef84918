"""The label of a session, by which `disheap session ls` shows whose it is.

A program sets it with `label` in the URL or in the transport options. Otherwise it is made here, from what the process
knows of itself: the name of its Celery node, or its host, and its process id.
"""

from __future__ import annotations

import os
import socket
import sys

LABEL_CHARACTERS = 255
"""The most that a node takes."""


def default_label() -> str:
    """`celery worker1@host, pid 4711` in a Celery worker and its pool processes; `kombu host, pid 4711` elsewhere."""
    node = _celery_node()
    who = f"celery {node}" if node else f"kombu {socket.gethostname()}"
    tail = f", pid {os.getpid()}"
    return who[: LABEL_CHARACTERS - len(tail)] + tail


def _celery_node() -> str:
    """The name of the worker that this process belongs to, or "".

    Celery has no public place for it. It keeps the name with what its tracing of tasks needs: it is the last value."""
    kept = getattr(sys.modules.get("celery.app.trace"), "_localized", None)
    name = kept[-1] if isinstance(kept, list) and kept else ""
    return name if isinstance(name, str) else ""
