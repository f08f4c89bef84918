"""What one admin request costs at worst, measured: `python -m tests.support.worst_admin`.

Each row builds the state that is worst for it within the default limits, on a node of a cluster of one, then asks once.
The columns are the longest step of the loop while the request is answered, and the bytes of the answer. Figures of one
machine: docs/explanation/cost-of-commands.md. `tests/runtime/test_admin_costs.py` bounds the calls of one step and the
bytes.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from disheap.errors import RequestError
from disheap.interfaces import Principal
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage
from disheap.runtime.clients.session_admin import PAGE_MAX
from disheap.runtime.state.session_table import Session, SessionFacts
from disheap.testing.inspected import InspectedMember
from tests.support.loop_steps import LoopSteps
from tests.support.nodes import Cluster

SESSIONS = 10_000
TEXT = "\U0001f41d" * 255
"""The longest label, of characters that take four bytes each."""


class Filler:
    """Fills the state of a node directly, not through its log: what matters is how large it is."""

    def __init__(self, node: InspectedMember) -> None:
        self.sessions = node.group.sessions
        self.machine = self.sessions.machine
        self._index = node.group.applied.index

    def open_sessions(self, count: int) -> None:
        for number in range(1, count + 1):
            facts = SessionFacts(number, 86_400_000, 3000, TEXT, TEXT, 0, bytes(32))
            session = self.sessions.table[number] = Session(facts, "2001:db8:1234:5678:9abc:def0:1234:5678")
            self.sessions.counts.opened(session)
            self.machine.session_opened(number, Principal(TEXT))

    def do(self, command: broker.Command, session: int = 1) -> None:
        self.machine.apply(self._index, 0, session, broker.encode(command))


def many_sessions(node: InspectedMember) -> None:
    Filler(node).open_sessions(SESSIONS)


def many_consumers(node: InspectedMember) -> None:
    """All consumers that there may be, in few sessions."""
    filler = Filler(node)
    filler.open_sessions(20)
    for number in range(10):
        filler.do(broker.CreateTopic(f"q{number}"))
        for _ in range(10_000):
            filler.do(broker.Subscribe(f"q{number}", 1), session=number + 1)


def many_messages(node: InspectedMember) -> None:
    filler = Filler(node)
    filler.open_sessions(1)
    filler.do(broker.CreateExchange("e", "topic"))
    for number in range(2_000):
        filler.do(broker.CreateTopic(f"q{number}"))
        filler.do(broker.Bind("e", f"q{number}", f"user.{number}.#"))
        filler.do(broker.EnqueueMany(f"q{number}", [NewMessage(b"x")] * 50))
        filler.do(broker.Subscribe(f"q{number}", 10))


class Case(NamedTuple):
    state: str
    build: Callable[[InspectedMember], None]
    request: dict[str, Any]
    before: str = ""  # a request that comes first, and gives the number of a backup

    @property
    def name(self) -> str:
        return str(self.request["op"])


CASES = [
    Case("10,000 sessions", many_sessions, {"op": "status"}),
    Case("100,000 consumers", many_consumers, {"op": "status"}),
    Case("10,000 sessions", many_sessions, {"op": "members"}),
    Case("10,000 sessions", many_sessions, {"op": "promote", "target": "n1"}),
    Case("10,000 sessions", many_sessions, {"op": "move", "target": "n1", "client_address": "elsewhere:8400"}),
    *(Case("10,000 sessions", many_sessions, {"op": op, "target": "n1"}) for op in ("demote", "remove", "replace")),
    Case("10,000 sessions", many_sessions, {"op": "leave"}),
    Case("10,000 sessions", many_sessions, {"op": "hash"}),
    Case("100,000 consumers", many_consumers, {"op": "hash"}),
    Case("100,000 messages in 2,000 topics", many_messages, {"op": "hash"}),
    Case("10,000 sessions", many_sessions, {"op": "sessions", "limit": PAGE_MAX}),
    Case("10,000 sessions, none of which matches", many_sessions, {"op": "sessions", "label": "x", "limit": PAGE_MAX}),
    Case("100,000 consumers", many_consumers, {"op": "sessions", "limit": PAGE_MAX}),
    Case("100,000 consumers", many_consumers, {"op": "end-session", "session": 1}),
    Case("100,000 messages in 2,000 topics", many_messages, {"op": "snapshot"}),
    Case("100,000 messages in 2,000 topics", many_messages, {"op": "transfer", "target": "n1"}),
    Case("100,000 messages in 2,000 topics", many_messages, {"op": "backup"}),
    Case("100,000 messages in 2,000 topics", many_messages, {"op": "backup-read", "offset": 0}, "backup"),
    Case("no messages", lambda _: None, {"op": "backup-end"}, "backup"),
]


class Cost(NamedTuple):
    longest_s: float
    most_calls: int
    answer_bytes: int


async def _answer(node: InspectedMember, request: dict[str, Any]) -> dict[str, Any]:
    """The only member of a cluster is not removed; the refusal costs what there is to pay."""
    try:
        return await node.admin(request)
    except RequestError as error:
        return {"error": str(error)}


async def measure(case: Case, directory: Path, counts: bool) -> Cost:
    """The cost of one request, and of what it sets off until the snapshot is taken and the node has nothing
    postponed."""
    async with Cluster(directory, nodes=1, machine="heap") as cluster:
        node = cluster.nodes["n1"]
        case.build(node)
        request = case.request
        if case.before:
            request = {**request, "backup": (await node.admin({"op": case.before}))["backup"]}
        with LoopSteps(counts) as steps:
            answer = await asyncio.create_task(_answer(node, request))  # in steps of its own
            while node.group.snapshotter.running or node.group.sessions.machine.backlog():
                await asyncio.sleep(0)
        return Cost(steps.longest_s, steps.most_calls, len(msgspec.msgpack.encode(answer)))


def main() -> None:
    print("| request | state | longest step, ms | calls of the step | bytes of the answer |")
    print("|---|---|---|---|---|")
    for case in CASES:
        with tempfile.TemporaryDirectory() as directory:
            timed = asyncio.run(measure(case, Path(directory), counts=False))
            counted = asyncio.run(measure(case, Path(directory), counts=True))
        print(
            f"| `{case.name}` | {case.state} | {timed.longest_s * 1000:.1f} | {counted.most_calls:,} "
            f"| {timed.answer_bytes:,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
