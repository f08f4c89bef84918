"""A heap machine whose commands, replies and pushes are structs, not bytes."""

from __future__ import annotations

from typing import Any

from disheap.interfaces import MachineContext, Principal
from disheap.protocol import broker
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HeapSettings

PLENTY = 100_000
"""A work limit that no test reaches by accident."""


class Driver:
    """`now` is the time of the log in ms. `pushed` collects (session, push) until `taken` is called."""

    def __init__(self, sessions: int = 2, *, group: int = 0, **settings: Any) -> None:
        self.group = group
        self.machine = HeapMachine(HeapSettings(**settings), MachineContext(group))
        self.machine.apply(0, 0, 0, broker.encode(broker.SetGroups(list(range(broker.GROUPS_MAX)))))
        self.now = 0
        self.index = 0
        self.pushed: list[tuple[int, Any]] = []
        for session in range(1, sessions + 1):
            self.machine.session_opened(session, Principal())

    def do(self, command: Any, session: int = 1) -> Any:
        self.index += 1
        reply, effects = self.machine.apply(self.index, self.now, session, broker.encode(command))
        self._collect(effects)
        return broker.decode_reply.decode(reply)

    def ask(self, query: Any, session: int = 1) -> Any:
        return broker.decode_reply.decode(self.machine.query(self.now, session, broker.encode(query)))

    def browse(self, topic: str, limit: int = 1000, session: int = 1, **kinds: bool) -> list[broker.PeekedMessage]:
        """All pages."""
        found: list[broker.PeekedMessage] = []
        after = -1
        while after:
            page = self.ask(broker.Browse(topic, max(0, after), limit, **kinds), session)
            assert len(page.messages) <= limit
            assert not page.after or page.after > after
            found += page.messages
            after = page.after
        return found

    def wait(self, milliseconds: int, limit: int = PLENTY) -> int:
        self.now += milliseconds
        units, effects = self.machine.advance(self.now, limit)
        self._collect(effects)
        return units

    def work_off(self, limit: int) -> int:
        """Advances until no work is left. Returns how many calls that took. No call does more than `limit` units."""
        calls = 0
        while self.machine.backlog():
            units, effects = self.machine.advance(self.now, limit)
            assert units <= limit
            self._collect(effects)
            calls += 1
        return calls

    def attach(self, session: int, *tokens: tuple[int, int], tickets: Any = (), consumers: Any = ()) -> broker.Resumed:
        held = broker.Held(list(tokens), list(tickets), list(consumers))
        reply, effects = self.machine.session_attached(session, broker.encode(held))
        self._collect(effects)
        resumed = broker.decode_reply.decode(reply)
        assert isinstance(resumed, broker.Resumed)
        return resumed

    def detach(self, session: int) -> None:
        self._collect(self.machine.session_detached(session))

    def expire(self, session: int) -> None:
        self._collect(self.machine.session_expired(session))

    def taken(self, session: int | None = None) -> list[Any]:
        """The pushes since the last call, to one session or to all."""
        pushed, self.pushed = self.pushed, []
        return [push for to, push in pushed if session in (None, to)]

    def taken_with_sessions(self) -> list[tuple[int, Any]]:
        """(session, push) of the pushes since the last call."""
        pushed, self.pushed = self.pushed, []
        return pushed

    def deliveries(self, session: int | None = None) -> list[broker.Deliver]:
        return [push for push in self.taken(session) if isinstance(push, broker.Deliver)]

    def payloads(self, session: int | None = None) -> list[bytes]:
        return [delivery.payload for delivery in self.deliveries(session)]

    def info(self, topic: str = "jobs") -> broker.TopicInfo:
        info = self.ask(broker.DescribeTopic(topic))
        assert isinstance(info, broker.TopicInfo)
        return info

    def restored(self) -> Driver:
        """Another replica, restored from a snapshot of this one."""
        twin = Driver(sessions=0, group=self.group)
        twin.machine = HeapMachine(self.machine._settings, MachineContext(self.group))
        twin.machine.restore(self.machine.snapshot())
        twin.now, twin.index = self.now, self.index
        return twin

    def _collect(self, effects: Any) -> None:
        self.pushed += [(session, broker.decode_push.decode(body)) for session, body in effects]


def token(delivery: broker.Deliver) -> tuple[int, int]:
    return (delivery.id, delivery.epoch)
