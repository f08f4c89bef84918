"""State machines that break one rule each, made from `Board` and `Relay`, which keep all of them."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import msgspec

from disheap.errors import InvalidArgument, SnapshotDamaged, UnknownCommand, VersionTooOld, VersionUnsupported
from disheap.interfaces import Effects, MachineContext, Metric, Principal
from disheap.testing.counter import TimedMachine
from tests.support.relay import Relay, State

_encode = msgspec.msgpack.encode
Rest = tuple[list[int], list[tuple[int, int]], int, int]
"""attached sessions, timers (due, session), work, time_ms"""


class Board(TimedMachine):
    """Counts names, tells them to everybody who is attached, rings after a time, and does postponed work.

    `+x` counts, `-x` counts down, `*x` doubles (since version 3), `!x` tells, `@MS` rings, `wN` is work.
    """

    name: ClassVar[str] = "board"
    api: ClassVar[int] = 1
    versions: ClassVar[tuple[int, int]] = (2, 3)

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        pass

    def __init__(self, settings: Any, context: MachineContext) -> None:
        super().__init__()
        self.version = 2
        self.counts: dict[str, int] = {}
        self.series_max = 10

    def set_version(self, version: int) -> None:
        if version < self.versions[0]:
            raise VersionUnsupported(f"a board runs no version {version}")
        self.version = version

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        verb, word = self.checked(command, session)
        if verb == "@":
            self.set_timer(time_ms + int(word), session)
        elif verb == "w":
            self.work += int(word)
        elif verb == "!":
            return b"told", [(one, word.encode()) for one in self.attached]
        else:
            self.counts[word] = {"+": self.count(word) + 1, "-": self.count(word) - 1, "*": self.count(word) * 2}[verb]
            if not self.counts[word]:
                del self.counts[word]
        return b"%d" % self.count(word), ()

    def checked(self, command: bytes, session: int) -> tuple[str, str]:
        text = command.decode("ascii", "replace")
        verb, word = text[:1], text[1:]
        if verb not in ("+", "-", "*", "!", "@", "w") or not word.isalnum():
            raise UnknownCommand("a board knows + - * ! @ w")
        if verb in ("@", "w") and not word.isdigit():
            raise UnknownCommand("a number is wanted")
        if verb == "*" and self.version < 3:
            raise VersionTooOld("not before version 3")
        if verb == "-" and not self.count(word):
            raise InvalidArgument(f"{word} is at nought")
        return verb, word

    def count(self, word: str) -> int:
        return self.counts.get(word, 0)

    def query(self, time_ms: int, session: int, request: bytes) -> bytes:
        if not request.isalnum():
            raise UnknownCommand("a word is wanted")
        return b"%d" % self.count(request.decode("ascii", "replace"))

    def snapshot(self) -> Iterator[bytes]:
        return iter([piece(self.counts), piece(self.rest())])

    def rest(self) -> Rest:
        return list(self.attached), list(self.timers), self.work, self.time_ms

    def restore(self, chunks: Iterable[bytes]) -> None:
        counts, rest = parts(b"".join(chunks))
        self.counts = counts
        self.attached, self.timers, self.work, self.time_ms = rest

    def state_hash(self) -> bytes:
        state = (sorted(self.counts.items()), self.attached, self.timers, self.work)
        return hashlib.blake2b(_encode(state), digest_size=16).digest()

    def hashing(self) -> Iterator[bytes]:
        return iter([self.state_hash()])

    def admits(self, command: bytes) -> bool:
        return command[:1] != b"!" or bool(self.attached)

    def allowed_when_full(self, command: bytes) -> bool:
        return command[:1] == b"-"

    def memory_bytes(self) -> int:
        return 100 * (len(self.counts) + len(self.timers) + len(self.attached))

    def session_stats(self, session: int) -> dict[str, int]:
        return {"timers": sum(one == session for _, one in self.timers)}

    def limit_series(self, series_max: int) -> None:
        self.series_max = series_max

    def metrics(self, time_ms: int) -> list[Metric]:
        names = sorted(self.counts)
        shown = [((name,), float(self.counts[name])) for name in names[: self.series_max]]
        rest = float(sum(self.counts[name] for name in names[self.series_max :]))
        return [Metric("board_counts", "gauge", "Counts of words.", ("word",), [*shown, (("",), rest)])]

    def list_stats(self, time_ms: int, prefix: str, after: str, limit: int) -> tuple[list[dict[str, Any]], int]:
        names = [name for name in sorted(self.counts) if name.startswith(prefix)]
        return [{"name": name, "count": self.counts[name]} for name in names if name > after][:limit], len(names)

    def stats(self) -> dict[str, int]:
        return {"words": len(self.counts)}

    def sample_commands(self) -> list[bytes]:
        counting = [verb + word for verb in (b"+", b"-", b"*") for word in (b"ash", b"oak", b"elm")]
        return [*counting, b"+ash", b"!hello", b"!all", b"@30", b"@200", b"w3", b"w40"]

    def sample_queries(self) -> list[bytes]:
        return [b"ash", b"oak"]


def piece(value: Any) -> bytes:
    body = _encode(value)
    return len(body).to_bytes(4, "little") + body


def parts(whole: bytes) -> tuple[dict[str, int], Rest]:
    size = int.from_bytes(whole[:4], "little")
    second = int.from_bytes(whole[4 + size : 8 + size], "little")
    if len(whole) != 8 + size + second or not size or not second:
        raise SnapshotDamaged("this is no snapshot of a board")
    try:
        counts = msgspec.msgpack.decode(whole[4 : 4 + size], type=dict[str, int])
        rest: Rest = msgspec.msgpack.decode(whole[8 + size :], type=Rest)  # type: ignore[arg-type]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SnapshotDamaged(f"this is no snapshot of a board: {error}") from error
    return counts, rest


# --- views -----------------------------------------------------------------------------------------------------------


class LateView(Board):
    """A generator function: the view is taken at the first `next`."""

    def snapshot(self) -> Iterator[bytes]:
        yield from super().snapshot()


class SharedView(Board):
    """The first piece is of the call, the second is made of the state that there is when it is asked for."""

    def snapshot(self) -> Iterator[bytes]:
        first = piece(self.counts)
        return (first if number == 0 else piece(self.rest()) for number in range(2))


class OneView(Board):
    """Has one buffer for its views: a second view empties the first."""

    def snapshot(self) -> Iterator[bytes]:
        self.pieces = [piece(self.counts), piece(self.rest())]
        return (self.pieces[number] for number in range(2))


class LateHashing(Board):
    """The slices to hash are of the state that there is when they are asked for."""

    def hashing(self) -> Iterator[bytes]:
        yield self.state_hash()


# --- restoring -------------------------------------------------------------------------------------------------------


class MergingRestore(Board):
    """What was there before stays beside what is restored."""

    def restore(self, chunks: Iterable[bytes]) -> None:
        before = self.timers
        super().restore(chunks)
        self.timers = sorted([*before, *self.timers])


class ForgetfulRestore(Board):
    """Timers are not in the snapshot, nor in the hash."""

    def restore(self, chunks: Iterable[bytes]) -> None:
        super().restore(chunks)
        self.timers = []

    def state_hash(self) -> bytes:
        state = (sorted(self.counts.items()), self.attached, self.work)
        return hashlib.blake2b(_encode(state), digest_size=16).digest()


class ReorderingRestore(Board):
    """A replica that was restored tells its sessions in another order; the hash does not know of the order."""

    def restore(self, chunks: Iterable[bytes]) -> None:
        super().restore(chunks)
        self.attached.sort()

    def state_hash(self) -> bytes:
        state = (sorted(self.counts.items()), sorted(self.attached), self.timers, self.work)
        return hashlib.blake2b(_encode(state), digest_size=16).digest()


class TwiceReadRestore(Board):
    """Reads its pieces twice; the second time there are none."""

    def restore(self, chunks: Iterable[bytes]) -> None:
        if any(chunks):
            super().restore(chunks)


class TrustingRestore(Board):
    """Takes what is behind the snapshot for nothing."""

    def restore(self, chunks: Iterable[bytes]) -> None:
        whole = b"".join(chunks)
        size = int.from_bytes(whole[:4], "little")
        end = 8 + size + int.from_bytes(whole[4 + size : 8 + size], "little")
        super().restore([whole[:end]])


class HalfRestore(Board):
    """Replaces a part of the state before it has read the rest."""

    def restore(self, chunks: Iterable[bytes]) -> None:
        whole = b"".join(chunks)
        self.counts = {}
        super().restore([whole])


# --- what is no input ------------------------------------------------------------------------------------------------


class HashOrder(Board):
    """Tells the sessions in the order of a set of words."""

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        reply, effects = super().apply(index, time_ms, session, command)
        return reply, [(int(word), push) for word, push in {(str(one), push) for one, push in effects}]


class ClockReader(Board):
    """Counts the days by the clock of its process."""

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        reply, effects = super().apply(index, time_ms, session, command)
        return reply + b" on day %d" % (time.time() // 86_400), effects


class Entropy(Board):
    """Draws numbers that are not in the log."""

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        reply, effects = super().apply(index, time_ms, session, command)
        return reply, random.sample(list(effects), len(effects))


class MemoryOrder(Board):
    """Tells the sessions in the order of their places in memory."""

    def __init__(self, settings: Any, context: MachineContext) -> None:
        super().__init__(settings, context)
        self.places: dict[int, list[int]] = {}

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        reply, effects = super().apply(index, time_ms, session, command)
        for one, _ in effects:
            self.places.setdefault(one, [one] * (one + 5))
        return reply, sorted(effects, key=lambda effect: id(self.places[effect[0]]))


class SharedByAll(Board):
    """The counts belong to the class."""

    everybodys: ClassVar[dict[str, int]] = {}

    def __init__(self, settings: Any, context: MachineContext) -> None:
        super().__init__(settings, context)
        self.counts = self.everybodys


# --- refusals, replies, hashes ---------------------------------------------------------------------------------------


class LeakyRefusal(Board):
    """A command that is refused has left something behind: the session that sent it goes to the end of the line."""

    def checked(self, command: bytes, session: int) -> tuple[str, str]:
        if command[:1] == b"-" and session in self.attached:
            self.attached = [*(one for one in self.attached if one != session), session]
        return super().checked(command, session)


class CountedGarbage(Board):
    """What is no command is counted in the state."""

    def checked(self, command: bytes, session: int) -> tuple[str, str]:
        if command[:1] not in (b"+", b"-", b"*", b"!", b"@", b"w"):
            self.work += 1
        return super().checked(command, session)


class Crasher(Board):
    """Raises something else for what is no command."""

    def checked(self, command: bytes, session: int) -> tuple[str, str]:
        command.decode("ascii")
        return super().checked(command, session)


class NumberedRefusal(Board):
    """Says the index in a refusal."""

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        try:
            return super().apply(index, time_ms, session, command)
        except UnknownCommand as refusal:
            raise UnknownCommand(f"{refusal}, at {index}") from None


class TextReply(Board):
    """Replies with text."""

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        reply, effects = super().apply(index, time_ms, session, command)
        return reply.decode(), effects  # type: ignore[return-value]


class PoorHash(Board):
    """The hash does not cover the timers."""

    def state_hash(self) -> bytes:
        state = (sorted(self.counts.items()), self.attached, self.work)
        return hashlib.blake2b(_encode(state), digest_size=16).digest()


# --- looking ---------------------------------------------------------------------------------------------------------


class CountedQueries(Board):
    """A query makes a word last."""

    def query(self, time_ms: int, session: int, request: bytes) -> bytes:
        answer = super().query(time_ms, session, request)
        self.counts.setdefault(request.decode(), 1)
        return answer


class CleaningStats(Board):
    """Statistics drop a timer on the way."""

    def stats(self) -> dict[str, int]:
        self.timers = self.timers[:3]
        return super().stats()


class RisingEstimate(Board):
    """Its estimate of the memory never falls."""

    highest = 0

    def memory_bytes(self) -> int:
        self.highest = max(self.highest, super().memory_bytes())
        return self.highest


class ShyReports(Board):
    """Says nothing of a session that it does not know."""

    def session_stats(self, session: int) -> dict[str, int]:
        return super().session_stats(session) if session in self.attached else {}


class EndlessSeries(Board):
    """Has a time series for each name, however many there are."""

    def limit_series(self, series_max: int) -> None:
        self.series_max = 1 << 30


class LongPages(Board):
    """Gives more rows than were asked for."""

    def list_stats(self, time_ms: int, prefix: str, after: str, limit: int) -> tuple[list[dict[str, Any]], int]:
        return super().list_stats(time_ms, prefix, after, limit + 1)


class WordyStats(Board):
    """Statistics that are no numbers."""

    def stats(self) -> dict[str, int]:
        return {"most": max(self.counts, default="")}  # type: ignore[dict-item]


class StrictScreening(Board):
    """Does not admit a command that does something."""

    def admits(self, command: bytes) -> bool:
        return command != b"+oak"


class RelayingAndCounting(Board):
    """Counts what it relays."""

    def relay(self, time_ms: int, command: bytes) -> Effects | None:
        if command[:1] != b"!":
            return None
        self.counts["told"] = self.count("told") + 1
        return [(one, command[1:]) for one in self.attached]


class FullByState(Board):
    """What passes a full disk depends on what is counted."""

    def allowed_when_full(self, command: bytes) -> bool:
        return command[:1] == b"-" or (command[:1] == b"+" and bool(self.counts))


# --- sessions --------------------------------------------------------------------------------------------------------


class GhostSessions(Board):
    """A session that is over is told like the others."""

    def session_expired(self, session: int) -> Effects:
        self.timers = [timer for timer in self.timers if timer[1] != session]
        return ()


class GhostTimers(Board):
    """A session that is over is rung."""

    def session_expired(self, session: int) -> Effects:
        self.attached = [one for one in self.attached if one != session]
        return ()


class RememberedSessions(Board):
    """Each session that ever opened stays in the state."""

    def session_opened(self, session: int, principal: Principal) -> None:
        super().session_opened(session, principal)
        self.counts[f"session{session}"] = 1


# --- time and work ---------------------------------------------------------------------------------------------------


class WorkWithoutLimit(Board):
    """Does all work at once."""

    def advance(self, time_ms: int, limit: int) -> tuple[int, Effects]:
        return super().advance(time_ms, 1 << 30)


class EndlessBacklog(Board):
    """There is always something left to do."""

    def backlog(self) -> bool:
        return True


class SilentWork(Board):
    """Does not say that work is left."""

    def backlog(self) -> bool:
        return False


class SilentTimer(Board):
    """Does not say when its next timer is due."""

    def next_deadline(self) -> int | None:
        return None


class RestartedWork(Board):
    """A restored replica begins its postponed work from the beginning."""

    def restore(self, chunks: Iterable[bytes]) -> None:
        super().restore(chunks)
        self.work += self.work % 2

    def state_hash(self) -> bytes:
        state = (sorted(self.counts.items()), self.attached, self.timers)
        return hashlib.blake2b(_encode(state), digest_size=16).digest()


# --- versions --------------------------------------------------------------------------------------------------------


class DrawnConstants(Board):
    """What it names as a constant is another at each call."""

    drawn: ClassVar[int] = 0

    @classmethod
    def constants(cls, version: int) -> dict[str, int]:
        DrawnConstants.drawn += 1
        return {"BOUND": DrawnConstants.drawn}


class AnyVersion(Board):
    """Takes a version that it cannot run."""

    def set_version(self, version: int) -> None:
        self.version = version


class VersionOfTheClass(Board):
    """The version is kept for all instances, and a restore puts it back to the lowest."""

    current: ClassVar[int] = 2

    def restore(self, chunks: Iterable[bytes]) -> None:
        super().restore(chunks)
        self.version = 2

    def set_version(self, version: int) -> None:
        if self.version == 2 and not self.counts:
            super().set_version(version)


# --- messages for other groups, made from `Relay` --------------------------------------------------------------------


class Unlimited(Relay):
    """Shows the whole outbox, whatever is asked for."""

    def outbox(self, group: int, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        return super().outbox(group, 0, 1 << 30)


class Miscounts(Relay):
    """Says that one message waits, however many do."""

    def waiting(self) -> dict[int, int]:
        return dict.fromkeys(super().waiting(), 1)


class ReusedNumbers(Relay):
    """Begins with number 1 again when the outbox is empty."""

    def drop(self, group: int, number: int) -> None:
        super().drop(group, number)
        if group not in self.outboxes:
            self.last.pop(group, None)


class ForgetsAll(Relay):
    """Drops messages that nobody has confirmed."""

    def drop(self, group: int, number: int) -> None:
        self.outboxes.pop(group, None)


class OldNumbers(Relay):
    """Goes on with its numbers in a new cluster."""

    def renumber(self) -> None:
        self.taken = {}


class LostOutbox(Relay):
    """The outbox is neither in the snapshot nor in the hash."""

    def state(self) -> State:
        last, _, taken = super().state()
        return last, {}, taken


class TakesTwice(Relay):
    """Takes a message again when it comes again."""

    def take(self, source: int, number: int, word: str) -> bytes:
        if number <= len(self.taken.get(source, ())):
            self.taken[source].append(word)
        return super().take(source, number, word)


class TakesGaps(Relay):
    """Takes a message although some are missing in front of it."""

    def take(self, source: int, number: int, word: str) -> bytes:
        return super().take(source, min(number, len(self.taken.get(source, ())) + 1), word)


RIGHT = Board
MEANT: dict[type[Any], str] = {
    Unlimited: "test_what_waits_for_other_groups_is_numbered_without_gaps",
    Miscounts: "test_what_waits_for_other_groups_is_numbered_without_gaps",
    ReusedNumbers: "test_what_is_confirmed_is_forgotten_and_nothing_else",
    ForgetsAll: "test_what_is_confirmed_is_forgotten_and_nothing_else",
    OldNumbers: "test_what_waits_is_numbered_anew_for_a_new_cluster",
    LostOutbox: "test_what_waits_is_in_the_snapshot_and_in_the_hash",
    TakesTwice: "test_a_message_is_taken_once_and_in_order",
    TakesGaps: "test_a_message_is_taken_once_and_in_order",
    LateView: "test_a_view_is_of_the_moment_it_was_taken",
    SharedView: "test_a_view_is_of_the_moment_it_was_taken",
    OneView: "test_two_views_do_not_disturb_each_other",
    LateHashing: "test_a_hash_in_slices_is_of_one_moment_and_the_same_on_every_replica",
    MergingRestore: "test_a_restore_replaces_the_whole_state",
    ForgetfulRestore: "test_a_restored_replica_goes_on_in_step",
    ReorderingRestore: "test_a_restored_replica_goes_on_in_step",
    TwiceReadRestore: "test_a_restored_replica_goes_on_in_step",
    TrustingRestore: "test_a_damaged_snapshot_is_refused_and_leaves_the_state",
    HalfRestore: "test_a_damaged_snapshot_is_refused_and_leaves_the_state",
    HashOrder: "test_another_process_gives_the_same_replies_effects_and_hash",
    ClockReader: "test_another_process_gives_the_same_replies_effects_and_hash",
    MemoryOrder: "test_another_process_gives_the_same_replies_effects_and_hash",
    Entropy: "test_the_same_calls_give_the_same_replies_effects_and_hash",
    SharedByAll: "test_the_same_calls_give_the_same_replies_effects_and_hash",
    LeakyRefusal: "test_a_command_that_is_refused_changes_nothing",
    CountedGarbage: "test_garbage_is_refused_and_changes_nothing",
    Crasher: "test_garbage_is_refused_and_changes_nothing",
    NumberedRefusal: "test_an_index_and_a_time_alone_do_not_change_a_refusal",
    TextReply: "test_a_reply_is_bytes_and_an_effect_is_a_session_and_bytes",
    PoorHash: "test_states_with_the_same_hash_answer_alike",
    CountedQueries: "test_looking_changes_nothing",
    CleaningStats: "test_looking_changes_nothing",
    RisingEstimate: "test_a_memory_estimate_follows_the_state",
    ShyReports: "test_what_a_session_has_is_told_under_the_same_names_for_all",
    EndlessSeries: "test_what_is_measured_is_bounded_and_changes_nothing",
    LongPages: "test_what_is_measured_is_bounded_and_changes_nothing",
    WordyStats: "test_statistics_are_numbers_by_name",
    StrictScreening: "test_what_is_not_admitted_would_do_nothing",
    RelayingAndCounting: "test_what_is_relayed_changes_nothing",
    FullByState: "test_what_is_allowed_when_full_depends_on_the_command_alone",
    GhostSessions: "test_nothing_is_pushed_to_a_session_that_is_over",
    GhostTimers: "test_nothing_is_pushed_to_a_session_that_is_over",
    RememberedSessions: "test_a_session_that_did_nothing_leaves_nothing",
    WorkWithoutLimit: "test_advancing_does_no_more_than_it_may_and_comes_to_an_end",
    EndlessBacklog: "test_advancing_does_no_more_than_it_may_and_comes_to_an_end",
    SilentWork: "test_a_timer_is_told_by_its_deadline_and_work_by_the_backlog",
    SilentTimer: "test_a_timer_is_told_by_its_deadline_and_work_by_the_backlog",
    RestartedWork: "test_however_the_work_is_cut_the_end_is_the_same_on_every_replica",
    DrawnConstants: "test_its_constants_are_whole_numbers_and_the_same_at_each_call",
    AnyVersion: "test_a_version_below_the_lowest_is_refused",
    VersionOfTheClass: "test_it_runs_every_version_that_it_says",
}
