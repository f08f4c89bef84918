"""Makes clients unusable in the child of a fork.

A child inherits its parent's sockets and the session's state. If both used it, they would give the same numbers to
different commands. The node would take all but one of each for a repetition: confirmed, and lost. So every client is
told in the child, before any code of the application runs there. An inherited socket that stays open would also keep
the session of a killed parent alive.

The list has to be the process's own, as the fork is; it holds nothing alive.
"""

from __future__ import annotations

import os
import weakref
from itertools import count
from typing import Protocol


class Inherited(Protocol):
    """A client that a child process finds open after a fork."""

    def abort_in_child(self) -> None:
        """Close the socket without a GOODBYE, and refuse further calls. Threads that the child does not have may hold
        locks."""


_numbers = count()
_watched: weakref.WeakValueDictionary[int, Inherited] = weakref.WeakValueDictionary()


def watch(inherited: Inherited) -> None:
    """Tell `inherited` when it finds itself in a child."""
    _watched[next(_numbers)] = inherited


def _abort_inherited() -> None:
    for inherited in list(_watched.values()):
        inherited.abort_in_child()
    _watched.clear()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_abort_inherited)
