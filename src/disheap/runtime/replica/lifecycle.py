"""The lifecycle of a replica. Owns its state and the table of legal transitions. Does not act on a transition.
`runtime.hosted_replica` makes the transitions. It opens the storage, starts a repair or ends the group. All other code
only reads the state.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class State(Enum):
    """The states of a replica. `Lifecycle` has the table of transitions."""

    OPENING = "opening"  # the storage is opened and read; also when it is opened again, after a repair
    REPAIRING = "repairing"  # the log is damaged or its end is ambiguous: what others hold is asked for
    WAITING = "waiting"  # the log is whole, and not every other member has welcomed this new directory yet
    RUNNING = "running"  # takes part: votes, writes, applies, serves
    QUARANTINED = "quarantined"  # the state differs from a majority's: serves nothing until the process is restarted
    REMOVED = "removed"  # the cluster has removed this node: takes no part, also after a restart
    FAILED = "failed"  # ended by an error, which is kept
    CLOSED = "closed"  # ended by `stop`


class IllegalTransition(RuntimeError):
    """A bug of ours: a transition that is not in the table."""


_OPENING, _REPAIRING, _WAITING, _RUNNING, _QUARANTINED, _REMOVED, _FAILED, _CLOSED = State

TRANSITIONS: dict[State, frozenset[State]] = {
    _OPENING: frozenset({_OPENING, _REPAIRING, _WAITING, _RUNNING, _REMOVED, _FAILED, _CLOSED}),
    _REPAIRING: frozenset({_OPENING, _REMOVED, _FAILED, _CLOSED}),
    _WAITING: frozenset({_RUNNING, _REMOVED, _FAILED, _CLOSED}),
    _RUNNING: frozenset({_REPAIRING, _QUARANTINED, _REMOVED, _FAILED, _CLOSED}),
    _QUARANTINED: frozenset({_REMOVED, _FAILED, _CLOSED}),
    _REMOVED: frozenset({_FAILED, _CLOSED}),
    _FAILED: frozenset(),
    _CLOSED: frozenset({_FAILED}),
}


class Lifecycle:
    """Begins as `opening`. `changed(before, now)` is called after each change.

    | from          | to            | when                                                                             |
    |---------------|---------------|----------------------------------------------------------------------------------|
    | `opening`     | `opening`     | the disk was full; the storage is opened again                                   |
    | `opening`     | `repairing`   | the log is found damaged, or its end ambiguous                                   |
    | `opening`     | `waiting`     | the log is whole, and a member has not welcomed this directory yet               |
    | `opening`     | `running`     | the log is whole, and every other member has welcomed this directory             |
    | `repairing`   | `opening`     | the repair has done what it could: what goes on is what a restart would find     |
    | `waiting`     | `running`     | the last of the other members has welcomed this directory                        |
    | `running`     | `repairing`   | damage shows, or the end of the log is ambiguous and nobody leads                |
    | `running`     | `quarantined` | a majority has another state than this replica                                   |
    | `opening`, `repairing`, `waiting`, `running`, `quarantined` | `removed` | the cluster has removed this node  |
    | the first six | `failed`      | the disk failed, the log or the state cannot be read, or there is a bug          |
    | `closed`      | `failed`      | the disk failed while the storage was closed                                     |
    | the first six | `closed`      | the node stops                                                                   |

    Nothing leaves `failed`.
    """

    def __init__(self, changed: Callable[[State, State], None] = lambda before, now: None) -> None:
        self.state = State.OPENING
        self.reason = ""
        """Why the replica is in this state; "" if there is nothing to report."""
        self.is_running = False
        """Whether the replica takes part: its kernel's `Ready` is carried out."""
        self.error: BaseException | None = None
        """The error that ended it; None unless it is `failed`."""
        self._changed = changed

    @property
    def is_over(self) -> bool:
        """Whether it has failed, or was closed."""
        return self.state in (State.FAILED, State.CLOSED)

    def change(self, to: State, reason: str = "") -> None:
        """Raises `IllegalTransition` and changes nothing, if the table does not have it. See `fail` for `failed`."""
        if to is State.FAILED:
            raise IllegalTransition("a replica fails with an error: use `fail`")
        self._enter(to, reason)

    def fail(self, error: BaseException) -> None:
        """The change to `failed`. Raises `IllegalTransition` for a replica that has failed before."""
        self._enter(State.FAILED, str(error), error)

    def _enter(self, to: State, reason: str, error: BaseException | None = None) -> None:
        before = self.state
        if to not in TRANSITIONS[before]:
            raise IllegalTransition(f"a replica that is {before.value} cannot become {to.value}")
        self.state, self.reason, self.error = to, reason, error
        self.is_running = to is _RUNNING  # no property: it is asked a dozen times for each command
        self._changed(before, to)
