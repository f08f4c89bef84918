"""A state machine that forwards: it puts words into the outboxes of other groups, and takes words from them.

| command      | what it does                                                                  |
|--------------|-------------------------------------------------------------------------------|
| `>G:WORD`    | puts the word into the outbox for group G; the reply is its number            |
| `<S:N:WORD`  | takes word N from group S, once and in order; the reply is the highest number |
| `~G:N`       | forgets the words for group G up to number N                                  |
| others       | are refused                                                                   |

The second and the third are a leader's own: they are refused if a client sends them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import msgspec

from disheap.errors import InvalidArgument, SnapshotDamaged, UnknownCommand, VersionUnsupported
from disheap.interfaces import Effects, MachineContext, Principal

State = tuple[dict[int, int], dict[int, list[tuple[int, str]]], dict[int, list[str]]]
"""the last number for each group, what waits for it, what was taken from each group"""


class Relay:
    name: ClassVar[str] = "relay"
    api: ClassVar[int] = 1
    versions: ClassVar[tuple[int, int]] = (1, 1)

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        pass

    def __init__(self, settings: Any, context: MachineContext) -> None:
        self.group = context.group
        self.last: dict[int, int] = {}
        self.outboxes: dict[int, list[tuple[int, str]]] = {}
        self.taken: dict[int, list[str]] = {}

    def set_version(self, version: int) -> None:
        if version != 1:
            raise VersionUnsupported(f"a relay runs version 1, not {version}")

    def apply(self, index: int, time_ms: int, session: int, command: bytes) -> tuple[bytes, Effects]:
        if session and command[:1] in (b"<", b"~"):
            raise InvalidArgument("a leader says this, and no client")
        verb, fields = command[:1], command[1:].decode("ascii", "replace").split(":")
        if not all(fields) or not all(number.isdecimal() and number.isascii() for number in fields[:-1]):
            raise UnknownCommand("a relay knows >G:WORD <S:N:WORD ~G:N")
        match verb, fields:
            case b">", [group, word]:
                return self.put(int(group), word), ()
            case b"<", [source, number, word]:
                return self.take(int(source), int(number), word), ()
            case b"~", [group, number] if number.isdecimal():
                self.drop(int(group), int(number))
                return b"forgotten", ()
        raise UnknownCommand("a relay knows >G:WORD <S:N:WORD ~G:N")

    def put(self, group: int, word: str) -> bytes:
        self.last[group] = number = self.last.get(group, 0) + 1
        self.outboxes.setdefault(group, []).append((number, word))
        return b"%d" % number

    def take(self, source: int, number: int, word: str) -> bytes:
        taken = len(self.taken.get(source, ()))
        if number > taken + 1:
            raise InvalidArgument(f"word {number} of group {source} came after word {taken}")
        if number == taken + 1:
            self.taken.setdefault(source, []).append(word)
        return b"%d" % len(self.taken.get(source, ()))

    def drop(self, group: int, number: int) -> None:
        left = [one for one in self.outboxes.pop(group, ()) if one[0] > number]
        if left:
            self.outboxes[group] = left

    # --- the power `Forwarding` ---

    def waiting(self) -> dict[int, int]:
        return {group: len(words) for group, words in sorted(self.outboxes.items())}

    def outbox(self, group: int, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        found = [one for one in self.outboxes.get(group, ()) if one[0] > after][:limit]
        return [(number, b"<%d:%d:%s" % (self.group, number, word.encode())) for number, word in found]

    def forget(self, group: int, number: int) -> bytes:
        return b"~%d:%d" % (group, number)

    def renumber(self) -> None:
        outboxes, self.outboxes, self.last, self.taken = self.outboxes, {}, {}, {}
        for group, words in outboxes.items():
            for _, word in words:
                self.put(group, word)

    # --- what every machine has ---

    def advance(self, time_ms: int, limit: int) -> tuple[int, Effects]:
        return 0, ()

    def backlog(self) -> bool:
        return False

    def next_deadline(self) -> int | None:
        return None

    def session_opened(self, session: int, principal: Principal) -> None: ...

    def session_attached(self, session: int, held: bytes) -> tuple[bytes, Effects]:
        return b"", ()

    def session_detached(self, session: int) -> Effects:
        return ()

    def session_expired(self, session: int) -> Effects:
        return ()

    def query(self, time_ms: int, session: int, request: bytes) -> bytes:
        if not request.isdigit():
            raise UnknownCommand("the number of a group is wanted")
        return " ".join(self.taken.get(int(request), ())).encode()

    def state(self) -> State:
        return (
            dict(sorted(self.last.items())),
            {group: list(words) for group, words in sorted(self.outboxes.items())},
            {source: list(words) for source, words in sorted(self.taken.items())},
        )

    def snapshot(self) -> Iterator[bytes]:
        return iter([msgspec.msgpack.encode(self.state())])

    def restore(self, chunks: Iterable[bytes]) -> None:
        try:
            self.last, self.outboxes, self.taken = msgspec.msgpack.decode(b"".join(chunks), type=State)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SnapshotDamaged(f"this is no snapshot of a relay: {error}") from error

    def state_hash(self) -> bytes:
        return hashlib.blake2b(msgspec.msgpack.encode(self.state()), digest_size=16).digest()

    def stats(self) -> dict[str, int]:
        return {"waiting": sum(map(len, self.outboxes.values())), "taken": sum(map(len, self.taken.values()))}

    def sample_commands(self) -> list[bytes]:
        sent = [b">%d:%s" % (group, word) for group in (1, 2) for word in (b"ash", b"oak", b"elm")]
        return [*sent, *sent, b"<7:1:yew", b"<7:2:fir", b"<8:1:yew", b"~1:2", b"~2:1"]
