"""Three heap machines with transactions over them, for any order of commands, messages, losses, repeats and time.

A client keeps to the order that it must keep: the coordinator's group prepares first, and COMMIT comes after every
PREPARE was answered. Everything else may happen at any moment.
"""

from __future__ import annotations

from collections.abc import Callable

from disheap.errors import CommandRefused
from disheap.interfaces import MachineContext, Principal
from disheap.protocol import broker
from disheap.protocol.broker import Ack, Enqueue, NewMessage, Prepare
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import INQUIRE_PAUSE_MAX_MS, HeapSettings

GROUPS = (0, 1, 2)
NAMES = ("a", "b", "c")
TIMEOUT_MS = 500
ROUNDS = 20
"""How many rounds of questions, decisions and confirmations there are, after which nothing may be left."""


class Groups:
    """One message per name is leased in each group, and its ack is a part of the transaction of that name."""

    def __init__(self) -> None:
        self.now = 0
        self.machines = [HeapMachine(HeapSettings(finished_transactions=2), MachineContext(group)) for group in GROUPS]
        self.prepared: dict[str, set[int]] = {name: set() for name in NAMES}
        self.refused: set[str] = set()
        self.told: dict[str, str] = {}  # what the client was told of the decision
        for machine in self.machines:
            machine.apply(1, 0, 0, broker.encode(broker.SetGroups(list(GROUPS))))
            machine.session_opened(1, Principal())
            machine.session_attached(1, b"")
            for command in (broker.CreateTopic("held"), broker.CreateTopic("new"), broker.Subscribe("held", 9)):
                machine.apply(1, 0, 1, broker.encode(command))
            for name in NAMES:
                machine.apply(1, 0, 1, broker.encode(Enqueue("held", NewMessage(name.encode()))))

    def do(self, group: int, command: broker.Command, session: int = 1) -> bool:
        """Whether the command was carried out."""
        machine = self.machines[group]
        before = machine.state_hash()
        try:
            machine.apply(1, self.now, session, broker.encode(command))
        except CommandRefused:
            assert machine.state_hash() == before, "refused, and the state is another"
            return False
        return True

    # --- what may happen ---

    def prepare(self, number: int) -> None:
        name, group = NAMES[number % 3], number // 3 % 3
        if name in self.refused or (group and 0 not in self.prepared[name]):
            return
        items: list[Enqueue | broker.Publish | Ack] = [
            Enqueue("new", NewMessage(name.encode())),
            Ack([(1 + NAMES.index(name), 1)]),
        ]
        role = Prepare(name, 1, 0, items, coordinator=0) if group else Prepare(name, 1, TIMEOUT_MS, items, [1, 2])
        if self.do(group, role):
            self.prepared[name].add(group)
        else:
            self.refused.add(name)

    def commit(self, number: int) -> None:
        name = NAMES[number % 3]
        if len(self.prepared[name]) == len(GROUPS) and name not in self.refused and name not in self.told:
            self.told[name] = "committed" if self.do(0, broker.Commit(name, 1)) else "aborted"
        elif self.told.get(name) == "committed":
            self.do(0, broker.Commit(name, 1))  # its outcome may be forgotten by now

    def abort(self, number: int) -> None:
        name = NAMES[number % 3]
        if name not in self.told and self.do(0, broker.Abort(name, 1)):
            self.told[name] = "aborted"

    def finish(self, number: int) -> None:
        """A client tells a participant something, which changes nothing. An operator insists on what was decided."""
        name, group = NAMES[number % 3], 1 + number // 3 % 2
        self.do(group, broker.Commit(name, 1))
        if name in self.told:
            decided = broker.Commit if self.told[name] == "committed" else broker.Abort
            self.do(group, decided(name, 1, True))

    def pass_time(self, number: int) -> None:
        self.now += number * 40
        for machine in self.machines:
            machine.advance(self.now, 1 + number)

    def carry(self, number: int) -> None:
        """One message arrives: the next one, one that came before, or one too early."""
        source, target, ahead = number % 3, number // 3 % 3, number // 9 % 4
        waiting = self.machines[source].outbox(target, 0, 100) if source != target else []
        if waiting:
            command = waiting[min(ahead, len(waiting) - 1)][1]
            self.do(target, broker.decode_command.decode(command), 0)

    def confirm(self, number: int) -> None:
        source, target = number % 3, number // 3 % 3
        taken = self.machines[target]._state.outbox.taken(source)
        assert self.do(source, broker.Confirm(target, max(0, taken - number // 9 % 2)), 0)

    def restart(self, number: int) -> None:
        """A replica that was restored takes over."""
        group = number % 3
        restored = HeapMachine(HeapSettings(finished_transactions=2), MachineContext(group))
        restored.restore(self.machines[group].snapshot())
        assert restored.state_hash() == self.machines[group].state_hash(), "its snapshot is another state"
        self.machines[group] = restored

    # --- the end ---

    def settle(self) -> None:
        """All time passes, and all messages arrive."""
        for _ in range(ROUNDS):
            self.now += INQUIRE_PAUSE_MAX_MS
            for machine in self.machines:
                machine.advance(self.now, 10_000)
            for source in GROUPS:
                for target in GROUPS:
                    for number, command in self.machines[source].outbox(target, 0, 1000):
                        self.machines[target].apply(1, self.now, 0, command)
                        self.machines[source].apply(1, self.now, 0, self.machines[source].forget(target, number))

    def check(self) -> None:
        """Nothing is left, and each transaction is in all groups or in none."""
        for machine in self.machines:
            stats = machine.stats()
            assert (stats["transactions"], stats["frozen"], stats["forwarding"]) == (0, 0, 0), stats
        for name in NAMES:
            here = [self._count(machine, "new", name) for machine in self.machines]
            left = [self._count(machine, "held", name) for machine in self.machines]
            assert here in ([0] * 3, [1] * 3), f"{name} is there {here} times"
            assert [one + other for one, other in zip(here, left, strict=True)] == [1] * 3, f"{name}: {here}, {left}"
            if name in self.told:
                assert here == [int(self.told[name] == "committed")] * 3, f"{name} was told to be {self.told[name]}"

    @staticmethod
    def _count(machine: HeapMachine, topic: str, name: str) -> int:
        answer = machine.query(0, 1, broker.encode(broker.Peek(topic, 100, True, True)))
        return sum(one.payload == name.encode() for one in broker.decode_reply.decode(answer).messages)


def between_groups(data: bytes) -> None:
    """One thing happens for each pair of bytes, which say what, and with what number."""
    groups = Groups()
    steps: tuple[Callable[[int], None], ...] = (
        groups.prepare, groups.prepare, groups.prepare, groups.commit, groups.abort, groups.finish, groups.pass_time,
        groups.carry, groups.carry, groups.confirm, groups.restart,
    )  # fmt: skip
    for which, number in zip(data[::2], data[1::2], strict=False):
        steps[which % len(steps)](number)
    groups.settle()
    groups.check()


SEEDS = [
    bytes([0, 0, 0, 3, 0, 6, 3, 0, 7, 3, 9, 3, 7, 6, 9, 6]),  # prepared in all groups, committed, told to all
    bytes([0, 0, 0, 3, 6, 20, 7, 3, 0, 6, 10, 0, 8, 3]),  # the time is over before the last one has prepared
    bytes([0, 1, 0, 4, 0, 7, 3, 1, 5, 1, 7, 3, 7, 3, 9, 12, 4, 2, 0, 2]),
    bytes(range(0, 256, 7)) * 2,
]
