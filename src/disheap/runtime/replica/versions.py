"""Raises the cluster's versions. When every member supports a newer version, the leader proposes it.

There are two. `machine_version` says which commands the state machine has, `log_version` which envelope kinds may stand
in the log. All replicas change at the same entry, and none goes back: a member that is too old from then on is refused.
Until then every member can be rolled back to the release before.

Owns the decision alone. The schedule that is prevented: n2 is stopped and rolled back while n3 is upgraded, and the
leader goes by what n2 said before. So a member counts by what it said when it connected last. Every member has to have
answered after all of them were known to be new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from disheap.errors import WrongVersion
from disheap.protocol import frames
from disheap.protocol.frames import LOG_VERSIONS, Kind
from disheap.runtime.state.sessions import Sessions


class Supported(NamedTuple):
    """What a member runs: lowest and highest."""

    machine: tuple[int, int]
    log: tuple[int, int]


class HearingAll(Protocol):
    """Whom a leader hears."""

    def hears_all_members(self) -> bool:
        """Whether every other member has answered lately."""


class VersionedGroup(Protocol):
    """The group whose versions are raised."""

    sessions: Sessions

    @property
    def leads(self) -> bool:
        """Whether this node leads the group."""

    @property
    def contact(self) -> HearingAll:
        """Whom the leader hears."""

    def submit(self, envelopes: bytes) -> None:
        """Put an envelope into the log."""


def own_versions(sessions: Sessions) -> Supported:
    """What this node runs."""
    return Supported(sessions.machine.versions, LOG_VERSIONS)


def check_supported(who: str, supported: Supported, cluster: tuple[int, int], said_by: str = "") -> None:
    """Raises `WrongVersion` when a node does not run the cluster's versions (0: not known)."""
    for name, version, (lowest, highest) in (
        ("machine_version", cluster[0], supported.machine),
        ("log_version", cluster[1], supported.log),
    ):
        if version and not lowest <= version <= highest:
            origin = f", as {said_by} says" if said_by else ""
            remedy = (
                "Install the release that the other members run"
                if version > highest
                else ("Install an older release first, which runs both")
            )
            raise WrongVersion(
                f"the cluster runs {name} {version}{origin}, and {who} runs {lowest} to {highest}: it cannot take "
                f"part. {remedy}, and start it again; its data can stay"
            )


class Versions:
    """`others` gives what all other members run, as they said when they connected last; None while one is not known.
    All have to support the new versions, and to answer, for `settle_ticks` in a row. That is longer than an answer
    counts, so each member has answered after the last one was upgraded."""

    def __init__(self, others: Callable[[], Sequence[Supported] | None], settle_ticks: int) -> None:
        self._others = others
        self._settle_ticks = settle_ticks
        self._ticks = 0  # for which all have supported `_wanted`, and answered
        self._wanted = (0, 0)
        self._asked = (0, 0)  # of the log already in this term

    def new_term(self, group: VersionedGroup) -> None:
        """Leadership has changed: every member has to answer anew. A new log begins with its version, if this release
        does not run version 1."""
        self._ticks = 0
        self._asked = (0, 0)
        sessions = group.sessions
        if group.leads and not sessions.is_version_known:
            self._ask(group, (sessions.machine_version, sessions.log_version))

    def raise_if_due(self, group: VersionedGroup) -> None:
        """Called at every tick."""
        sessions = group.sessions
        now = (sessions.machine_version, sessions.log_version)
        before, self._wanted = self._wanted, self._supported_by_all(group, now)
        self._ticks = self._ticks + 1 if self._wanted == before else 1
        if self._wanted not in (now, self._asked) and self._ticks >= self._settle_ticks:
            self._ask(group, self._wanted)

    def _ask(self, group: VersionedGroup, versions: tuple[int, int]) -> None:
        self._asked = versions
        group.submit(frames.envelope(Kind.RAISE_VERSION, 0, 0, 0, 0, frames.RAISED.pack(*versions)))

    def _supported_by_all(self, group: VersionedGroup, now: tuple[int, int]) -> tuple[int, int]:
        """The highest versions that all members run; `now` while this is not known, or nothing is to be raised."""
        mine = own_versions(group.sessions)
        if not group.leads or (mine.machine[1], mine.log[1]) == now or not group.contact.hears_all_members():
            return now
        others = self._others()
        if others is None:
            return now
        members = [mine, *others]
        machine, log = min(one.machine[1] for one in members), min(one.log[1] for one in members)
        return max(machine, now[0]), max(log, now[1])
