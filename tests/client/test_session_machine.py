"""Whatever the network does, a command is answered exactly once and applied at most once; or withdrawn, and never.

A node with the server's dedup rule, and connections that are cut after any byte in either direction.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from disheap.client.core.events import Answered, Event, Moved
from disheap.client.core.session import Session, State
from disheap.errors import OutcomeUnknown
from disheap.protocol.frames import SessionOptions

from .fake_node import FakeCluster, FakePeer
from .test_session import opaque

WINDOW = 5


class AnySchedule(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cluster = FakeCluster(window=WINDOW)
        self.session = Session(SessionOptions(9000))
        self.peer: FakePeer | None = None
        self.to_node = b""
        self.to_client = b""
        self.asked = 0
        self.answers: dict[int, Any] = {}

    # --- the client ---

    @rule(count=st.integers(1, 4))
    def call(self, count: int) -> None:
        for _ in range(count):
            self.session.call(opaque(self.asked), self.asked)
            self.asked += 1

    @precondition(lambda self: self.asked)
    @rule(back=st.integers(0, 5))
    def withdraw(self, back: int) -> None:
        numbers = {max(0, self.asked - 1 - back), self.asked - 1}
        for number in self.session.withdraw(lambda waiter: waiter in numbers):
            assert number not in self.answers
            self.answers[number] = None

    @rule()
    def retry(self) -> None:
        self.session.retry()

    # --- the network ---

    @precondition(lambda self: self.peer is None)
    @rule()
    def connect(self) -> None:
        self.peer = FakePeer(self.cluster)
        self.to_node = self.to_client = b""
        self.session.connected()

    @precondition(lambda self: self.peer is not None)
    @rule(share=st.floats(0, 1))
    def carry_to_node(self, share: float) -> None:
        self.to_node += self.session.take_output()
        cut = round(len(self.to_node) * share)
        data, self.to_node = self.to_node[:cut], self.to_node[cut:]
        assert self.peer is not None
        self.to_client += self.peer.receive(data)

    @precondition(lambda self: self.peer is not None)
    @rule(share=st.floats(0, 1))
    def carry_to_client(self, share: float) -> None:
        cut = round(len(self.to_client) * share)
        data, self.to_client = self.to_client[:cut], self.to_client[cut:]
        self.take(self.session.receive(data))

    @precondition(lambda self: self.peer is not None)
    @rule()
    def cut(self) -> None:
        self.take(self.session.disconnected())
        self.peer = None

    # --- the node ---

    @rule(count=st.integers(1, 3))
    def overload(self, count: int) -> None:
        self.cluster.overloaded = count

    @precondition(lambda self: self.cluster.sessions)
    @rule()
    def expire(self) -> None:
        for number in list(self.cluster.sessions):
            self.cluster.expire(number)

    @precondition(lambda self: self.peer is not None and self.session.state is State.READY)
    @rule()
    def step_down(self) -> None:
        assert self.peer is not None
        if not self.peer.closed:
            self.to_client += self.peer.goodbye()

    # --- what must hold ---

    def take(self, events: list[Event]) -> None:
        moved = False
        for event in events:
            if isinstance(event, Answered):
                assert event.waiter not in self.answers, "answered twice"
                self.answers[event.waiter] = event.error or event.body
            moved = moved or isinstance(event, Moved)
        if moved:
            self.cut()

    @invariant()
    def nothing_is_applied_twice(self) -> None:
        bodies = [body for _, _, body in self.cluster.applied]
        assert len(bodies) == len(set(bodies))

    @invariant()
    def nothing_is_confirmed_that_was_not_answered(self) -> None:
        answered = sum(answer is not None for answer in self.answers.values())
        assert self.session.confirmed <= answered

    @invariant()
    def every_answer_is_true(self) -> None:
        applied = {body for _, _, body in self.cluster.applied}
        for number, answer in self.answers.items():
            if answer is None:
                assert opaque(number) not in applied, "taken back, and carried out"
            elif isinstance(answer, bytes):
                assert answer == b"echo " + opaque(number) and opaque(number) in applied
            else:
                assert isinstance(answer, OutcomeUnknown)

    def teardown(self) -> None:
        """In the end, on a quiet network, everything is answered."""
        self.cluster.overloaded = 0
        for _ in range(200):
            if self.session.unanswered == 0:
                break
            if self.peer is None:
                self.connect()
            self.session.retry()
            self.carry_to_node(1.0)
            if self.peer is not None:
                self.carry_to_client(1.0)
        assert sorted(self.answers) == list(range(self.asked))
        self.nothing_is_applied_twice()
        self.every_answer_is_true()


TestAnySchedule = AnySchedule.TestCase
TestAnySchedule.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
