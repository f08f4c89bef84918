"""Tells the observer hooks of plugins what happened on this node (`disheap.plugins.hookspecs`).

Owns the rule that an observer cannot harm the node. An implementation that raises is logged and not called again. Does
not decide what is reported. The code that makes a change calls the method for it, on the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from disheap.logs import get_logger
from disheap.plugins.registry import Observer

log = get_logger(__name__)

MAX_CALL_S = 0.05
"""No event may stop the loop for longer. An observer that does is named in the log, once."""


class Observers:
    """`now` gives seconds of a monotonic clock."""

    def __init__(self, node: str, observers: Sequence[Observer], now: Callable[[], float]) -> None:
        self._node = node
        self._now = now
        self._by_hook: dict[str, list[Observer]] = {}
        self._slow: set[Observer] = set()
        for observer in observers:
            self._by_hook.setdefault(observer.hook, []).append(observer)

    def leader_changed(self, group: int, term: int, leader: str) -> None:
        """Tell `disheap_leader_changed`."""
        self._tell("disheap_leader_changed", group=group, term=term, leader=leader)

    def member_changed(self, group: int, index: int, members: tuple[str, ...]) -> None:
        """Tell `disheap_member_changed`."""
        self._tell("disheap_member_changed", group=group, index=index, members=members)

    def snapshot_taken(self, group: int, index: int, size_bytes: int) -> None:
        """Tell `disheap_snapshot_taken`."""
        self._tell("disheap_snapshot_taken", group=group, index=index, size_bytes=size_bytes)

    def quarantined(self, group: int, reason: str) -> None:
        """Tell `disheap_quarantined`."""
        self._tell("disheap_quarantined", group=group, reason=reason)

    def damage_found(self, group: int, what: str) -> None:
        """Tell `disheap_damage_found`."""
        self._tell("disheap_damage_found", group=group, what=what)

    def session_expired(self, group: int, session: int, label: str) -> None:
        """Tell `disheap_session_expired`."""
        self._tell("disheap_session_expired", group=group, session=session, label=label)

    def _tell(self, hook: str, **facts: Any) -> None:
        for observer in tuple(self._by_hook.get(hook, ())):
            self._call(observer, {"node": self._node, **facts})

    def _call(self, observer: Observer, facts: dict[str, Any]) -> None:
        began = self._now()
        try:
            observer.call(*(facts[name] for name in observer.argument_names))
        except Exception:
            self._by_hook[observer.hook].remove(observer)
            log.exception(
                "an observer failed, and is not called again by this node",
                hook=observer.hook,
                distribution=observer.provenance.distribution,
            )
        took_s = self._now() - began
        if took_s > MAX_CALL_S and observer not in self._slow:
            self._slow.add(observer)
            log.warning(
                "an observer stopped the node's loop",
                advice="let it hand its work over to a thread or a queue",
                hook=observer.hook,
                distribution=observer.provenance.distribution,
                seconds=round(took_s, 3),
            )
