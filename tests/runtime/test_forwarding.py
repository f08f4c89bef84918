"""What a leader sends to other groups, and when it has its machine forget it."""

from __future__ import annotations

from tests.support.relay import Relay

from disheap.errors import CommandRefused
from disheap.interfaces import MachineContext
from disheap.runtime.replica.forwarding import RETRY_FIRST_S, RETRY_MAX_S, WINDOW, WINDOW_BYTES, Done, Forwarder

TARGET = 1


class Place:
    """A leader of group 0, the machine of group 1, and the way between them, on which the test decides."""

    def __init__(self) -> None:
        self.now = 100.0
        self.source = Relay(Relay.Settings(), MachineContext(0))
        self.target = Relay(Relay.Settings(), MachineContext(TARGET))
        self.sent: list[tuple[bytes, Done]] = []
        self.applied: list[tuple[bytes, Done]] = []
        self.refuses = ""  # at once, with this reason
        self.drops = 0
        self.woken = 0
        self.random = 0.0  # the longest pause
        self.forwarder = Forwarder(lambda: self.source, self, lambda: self.now, lambda: self.random, self.wake)
        self.forwarder.lead(1)

    def send(self, group: int, number: int, command: bytes, done: Done) -> None:
        assert group == TARGET and command.startswith(b"<0:%d:" % number)
        if self.refuses:
            done(self.refuses)
        else:
            self.sent.append((command, done))

    def drop(self) -> None:
        self.drops += 1

    def wake(self) -> None:
        self.woken += 1

    def apply(self, command: bytes, done: Done) -> None:
        self.applied.append((command, done))

    def put(self, *words: bytes) -> None:
        for word in words:
            self.source.apply(1, 0, 1, b">%d:%s" % (TARGET, word))

    def pump(self) -> list[bytes]:
        """What is handed over by one call."""
        before = len(self.sent)
        self.forwarder.pump()
        return [command for command, _ in self.sent[before:]]

    def arrive(self, number: int = 0) -> None:
        """The target takes a message that is on its way, and its answer comes back."""
        command, done = self.sent.pop(number)
        try:
            self.target.apply(1, 0, 0, command)
        except CommandRefused as error:
            done(str(error))
            return
        done("")

    def fail(self, number: int = 0) -> None:
        self.sent.pop(number)[1]("lost")

    def carry_out(self, problem: str = "") -> None:
        """What the machine is to forget goes through the log, or does not."""
        command, done = self.applied.pop(0)
        if not problem:
            self.source.apply(1, 0, 0, command)
        done(problem)


def test_messages_go_in_order_each_once_and_are_forgotten_when_confirmed() -> None:
    place = Place()
    place.put(b"a", b"b")
    assert place.pump() == [b"<0:1:a", b"<0:2:b"]
    place.put(b"c")
    assert place.pump() == [b"<0:3:c"]
    assert place.applied == [], "nothing is confirmed yet"
    for _ in range(3):
        place.arrive()
    assert place.pump() == []
    place.carry_out()
    assert place.source.waiting() == {}
    assert place.target.taken == {0: ["a", "b", "c"]}
    place.put(b"d")
    assert place.pump() == [b"<0:4:d"]


def test_a_window_bounds_what_is_under_way() -> None:
    place = Place()
    place.put(*[b"w"] * (WINDOW + 5))
    assert len(place.pump()) == WINDOW
    assert place.pump() == []
    place.arrive()
    place.arrive()
    assert len(place.pump()) == 2


def test_all_from_a_lost_message_on_are_sent_again_after_a_while() -> None:
    place = Place()
    place.put(b"a", b"b", b"c")
    place.pump()
    place.arrive()
    place.fail()
    place.arrive()  # it has a gap in front of it, and is refused
    assert place.target.taken == {0: ["a"]}
    assert place.pump() == [], "not at once"
    place.now += RETRY_FIRST_S
    assert place.pump() == [b"<0:2:b", b"<0:3:c"]
    place.arrive()
    place.arrive()
    place.pump()
    place.carry_out()  # what was confirmed first
    place.pump()
    place.carry_out()
    assert place.target.taken == {0: ["a", "b", "c"]} and place.source.waiting() == {}


def test_the_pause_grows_to_a_bound_and_starts_anew_after_an_answer() -> None:
    place = Place()
    place.put(b"a")
    pauses = []
    for _ in range(9):
        place.pump()
        place.fail()
        began = place.now
        while not place.pump():
            place.now += RETRY_FIRST_S / 4
        pauses.append(place.now - began)
    assert pauses == sorted(pauses) and pauses[0] < 2 * RETRY_FIRST_S
    assert RETRY_MAX_S <= pauses[-1] < RETRY_MAX_S + RETRY_FIRST_S
    place.arrive()
    place.put(b"b")
    place.pump()
    place.fail()
    place.now += RETRY_FIRST_S
    assert place.pump() == [b"<0:2:b"]


def test_a_late_answer_of_an_earlier_try_confirms_and_fails_nothing() -> None:
    place = Place()
    place.put(b"a", b"b")
    place.pump()
    place.fail(1)
    place.now += RETRY_FIRST_S
    assert place.pump() == [b"<0:1:a", b"<0:2:b"]
    place.fail(0)  # of the first try
    assert place.pump() == [], "the second try goes on"
    place.arrive()
    place.arrive()
    place.pump()
    place.carry_out()
    assert place.source.waiting() == {} and place.target.taken == {0: ["a", "b"]}


def test_a_new_leader_begins_with_what_waits_and_the_target_answers_again() -> None:
    place = Place()
    place.put(b"a", b"b")
    place.pump()
    place.arrive()
    answer_to_b = place.sent.pop()
    place.forwarder.lead(0)
    assert place.pump() == []
    place.forwarder.lead(2)
    assert place.pump() == [b"<0:1:a", b"<0:2:b"]
    answer_to_b[1]("")  # of the earlier term: it confirms nothing
    assert place.applied == []
    place.arrive()
    place.pump()
    assert [command for command, _ in place.applied] == [b"~1:1"]
    assert place.target.taken == {0: ["a"]}


def test_a_confirmation_that_did_not_get_into_the_log_is_proposed_again() -> None:
    place = Place()
    place.put(b"a")
    place.pump()
    place.arrive()
    place.pump()
    place.pump()
    assert len(place.applied) == 1, "one at a time"
    place.carry_out("not the leader")
    place.pump()
    place.carry_out()
    assert place.source.waiting() == {}


def test_the_bytes_under_way_are_bounded_and_one_large_message_goes() -> None:
    place = Place()
    place.put(b"w" * 2 * WINDOW_BYTES, b"a", b"w" * WINDOW_BYTES, b"b")
    assert [command[:4] for command in place.pump()] == [b"<0:1"]
    assert place.pump() == []
    place.arrive()
    assert [command[:4] for command in place.pump()] == [b"<0:2", b"<0:3"]
    place.arrive()
    assert place.pump() == []
    place.arrive()
    assert place.pump() == [b"<0:4:b"]


def test_what_fails_at_once_is_not_followed_by_the_next_message() -> None:
    """The schedule that is prevented: 1 is refused for want of a leader, there is one again, and 2 goes first."""
    place = Place()
    place.put(b"a", b"b")
    place.refuses = "no leader of group 1 is known"
    assert place.pump() == []
    place.refuses = ""
    assert place.pump() == []
    place.now += RETRY_FIRST_S
    assert place.pump() == [b"<0:1:a", b"<0:2:b"]


def test_pauses_differ_by_up_to_a_half() -> None:
    place = Place()
    place.random = 1.0
    place.put(b"a")
    place.pump()
    place.fail()
    place.now += RETRY_FIRST_S * 0.49
    assert place.pump() == []
    place.now += RETRY_FIRST_S * 0.02
    assert place.pump() == [b"<0:1:a"]


def test_the_status_says_how_many_wait_and_why() -> None:
    place = Place()
    assert place.forwarder.status() == []
    place.put(b"a", b"b")
    place.pump()
    assert place.forwarder.status() == [{"group": TARGET, "waiting": 2, "reason": ""}]
    place.fail()
    assert place.forwarder.status() == [{"group": TARGET, "waiting": 2, "reason": "lost"}]
    place.forwarder.lead(0)
    assert place.forwarder.status() == [{"group": TARGET, "waiting": 2, "reason": ""}]
    place.forwarder.lead(2)
    place.pump()
    place.sent.pop(0)
    place.arrive()
    assert place.forwarder.status() == [{"group": TARGET, "waiting": 2, "reason": ""}]


def test_an_answer_wakes_and_the_end_of_leadership_drops_what_is_under_way() -> None:
    place = Place()
    place.put(b"a", b"b")
    place.pump()
    place.arrive()
    place.arrive()
    assert place.woken == 1, "one call is enough for both"
    before = place.drops
    place.forwarder.lead(0)
    assert place.drops == before + 1
