"""Linearizable reads (ReadIndex, dissertation §6.4), and the index that each waits for.

Reads that arrive between two runs of the pump share one round of heartbeats under one number, which is never used again
(pitfall 16). A read may be answered when the machine has applied the index that its round gave.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from disheap.errors import NotLeader
from disheap.kernel.raft import Raft
from disheap.kernel.types import Index, Read

OnRead = Callable[[bool], None]
"""Called once: True when the state is new enough, False when leadership was lost first."""


class Reads:
    """The linearizable reads of one group, in the order of their read index."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._number = 0
        self._new: list[OnRead] = []
        self._asked: dict[int, list[OnRead]] = {}
        self._waiting: list[tuple[Index, int, list[OnRead]]] = []

    def add(self, answer: OnRead) -> None:
        """Let a read wait for the next round of heartbeats."""
        self._new.append(answer)

    def ask(self) -> None:
        """Start one round of heartbeats for all new reads."""
        if not self._new:
            return
        answers, self._new = self._new, []
        self._number += 1
        try:
            self._raft.read_index(self._number)
        except NotLeader:
            _answer(answers, False)
        else:
            self._asked[self._number] = answers

    def ready(self, read: Read, applied: Index) -> None:
        """A round has ended. Answers its reads if `applied` has reached the read index."""
        answers = self._asked.pop(read.context, None)
        if answers is None:
            return
        if not read.ok or read.index <= applied:
            _answer(answers, read.ok)
        else:
            heappush(self._waiting, (read.index, read.context, answers))

    def applied(self, index: Index) -> None:
        """Answer the reads whose read index is at most `index`."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= index:
            _answer(heappop(waiting)[2], True)

    def end(self) -> None:
        """Leadership was lost, or the node stops: answer all reads with False."""
        answers = [*self._asked.values(), self._new, *(row[2] for row in self._waiting)]
        self._asked, self._new, self._waiting = {}, [], []
        for group in answers:
            _answer(group, False)


def _answer(answers: list[OnRead], ok: bool) -> None:
    for answer in answers:
        answer(ok)
