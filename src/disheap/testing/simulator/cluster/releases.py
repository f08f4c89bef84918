"""Two releases in one cluster: this one, and the next one, which runs one machine version more.

From that version on the snapshots of the next release begin with a mark, which this release cannot read. Owns which
release a host runs, and the rule that nobody raises the version while a member runs this release. A node of this
release that meets the version later ends, and rightly. Its operator installs the next release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, ClassVar

from disheap.testing.simulator.cluster.hosts import Host

MARK = b"NEXT RELEASE"
AWAY_S = 4.0
"""A leader may count an answer for 0.6 s, a slow link holds one back for 2 s, and an upgrade may begin meanwhile."""


def next_release(machine: type[Any]) -> type[Any]:
    """The machine as the next release has it."""
    lowest, highest = machine.versions

    class NextRelease(machine):  # type: ignore[misc]
        versions: ClassVar[tuple[int, int]] = (lowest, highest + 1)
        _runs = lowest

        def set_version(self, version: int) -> None:
            super().set_version(version)
            self._runs = version

        def snapshot(self) -> Iterator[bytes]:
            pieces: Iterator[bytes] = super().snapshot()
            return chain([MARK], pieces) if self._runs > highest else pieces

        def restore(self, chunks: Iterable[bytes]) -> None:
            super().restore(_without_mark(chunks))

    return NextRelease


def _without_mark(chunks: Iterable[bytes]) -> Iterator[bytes]:
    left, head = iter(chunks), b""
    while len(head) < len(MARK) and (chunk := next(left, b"")):
        head += chunk
    yield head.removeprefix(MARK)
    yield from left


class Releases:
    """The releases of the hosts of a cluster. `installed` gives the class of a plugin of this release, and `now`
    virtual time. `raises` tells when leaders have asked their logs for a later version."""

    def __init__(
        self,
        installed: Callable[[str, str], type[Any]],
        now: Callable[[], float],
        raises: Callable[[], list[float]],
    ) -> None:
        self.later_hosts_run_next = False
        """Whether a machine that is added from now on gets the next release."""
        self._installed = installed
        self._now = now
        self._raises = raises
        self._thawed_at = 0.0
        self._made: dict[str, type[Any]] = {}  # machines of the next release, by name

    def added(self, host: Host) -> None:
        """A machine was bought while the cluster runs."""
        host.runs_next, host.release_since = self.later_hosts_run_next, self._now()

    def starts(self, host: Host) -> dict[tuple[str, str], type[Any]]:
        """Returns the machines of the release that the host runs now, in the place of those that are installed."""
        if host.ran_next != host.runs_next:
            host.ran_next, host.release_since = host.runs_next, self._now()
        if not host.runs_next:
            return {}
        return {("machine", name): self._next(name) for name in map(host.config.machine_of, range(host.config.groups))}

    def _next(self, name: str) -> type[Any]:
        if name not in self._made:
            self._made[name] = next_release(self._installed("machine", name))
        return self._made[name]

    def wiped(self, host: Host) -> None:
        """Another node takes the place of the one that ran here."""
        host.release_since = max(host.release_since, self._now())

    def thawed(self) -> None:
        """A leader that was frozen may read old answers, and count them."""
        self._thawed_at = self._now()

    def is_too_old(self, host: Host) -> str:
        """The host's node has met a version that it does not run. Returns what is wrong with that, or ""."""
        if host.ran_next:
            return "the next release says that it is too old"
        host.runs_next = True
        raises = self._raises()
        if not raises:
            return "it is too old, and nobody has raised the version"
        old_s = min(raises) - max(host.release_since, self._thawed_at)
        return f"the version was raised while it had been old for {old_s:.1f} s" if old_s > AWAY_S else ""
