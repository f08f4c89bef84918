"""What nodes tell each other about repair is checked before anybody acts on it."""

from __future__ import annotations

import msgspec
import pytest

from disheap.errors import MalformedFrame
from disheap.kernel import membership
from disheap.kernel.types import EntryKind, Member, Membership, NodeId
from disheap.protocol import repair
from disheap.protocol.frames import Kind
from disheap.protocol.repair import AskEntries, AskSnapshot, AskStanding, Entries, SnapshotPiece, Standing, Verdict

MEMBERS = membership.encode(Membership((Member(NodeId(1), True, b"n1"),)))
GOOD = Standing(0, 3, False, 4, 2, 2, 1, 3, 6, ((3, 1), (5, 2)), ((4, 4),), False)
PIECE = SnapshotPiece(0, 9, 3, 99, MEMBERS, 0, b"piece", False)


def changed(message: msgspec.Struct, **fields: object) -> msgspec.Struct:
    return msgspec.structs.replace(message, **fields)


BAD = {
    "a negative index": AskEntries(0, -1, 5),
    "nothing asked for": AskEntries(0, 6, 5),
    "a number beyond 63 bits": AskSnapshot(0, 1 << 63, 0, 0),
    "a log that ends before it begins": changed(GOOD, last=1, runs=()),
    "entries without terms": changed(GOOD, runs=()),
    "runs that are not sorted": changed(GOOD, runs=((3, 1), (6, 2), (5, 2))),
    "runs twice in one place": changed(GOOD, runs=((3, 1), (3, 2))),
    "terms that go back": changed(GOOD, runs=((3, 2), (5, 1))),
    "runs of another log": changed(GOOD, runs=((1, 1), (5, 2))),
    "runs beyond the end": changed(GOOD, runs=((3, 1), (7, 2))),
    "more runs than may be told": changed(GOOD, last=1 << 40, runs=tuple((n, 1) for n in range(3, 10_005))),
    "damage that ends before it begins": changed(GOOD, damaged=((5, 4),)),
    "more damage than may be told": changed(GOOD, damaged=((4, 4),) * (repair.MAX_PLACES + 1)),
    "entries with a gap": Entries(0, 5, ((3, 5, 2, 9, b""), (3, 7, 2, 9, b""))),
    "entries of terms that go back": Entries(0, 5, ((3, 5, 2, 9, b""), (2, 6, 2, 9, b""))),
    "entries from elsewhere": Entries(0, 4, ((3, 5, 2, 9, b""),)),
    "an entry of no kind": Entries(0, 5, ((3, 5, 99, 9, b""),)),
    "a membership entry that says nothing": Entries(0, 5, ((3, 5, EntryKind.MEMBERSHIP, 9, b"\xff"),)),
    "commands that are no envelopes": Entries(0, 5, ((3, 5, EntryKind.COMMANDS, 9, b"\xff" * 40),)),
    "a snapshot without members": changed(PIECE, membership=b"\xff\xff"),
    "a snapshot that never ends": changed(PIECE, data=b""),
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD)
def test_what_nobody_could_act_on_is_refused_when_it_is_read(message: repair.Ask | repair.Answer) -> None:
    """A snapshot's members that could not be read ended the node that had asked."""
    kind = Kind.REPAIR_ASK if isinstance(message, AskStanding | AskEntries | AskSnapshot) else Kind.REPAIR_ANSWER
    with pytest.raises(MalformedFrame, match="about repair cannot be read"):
        repair.decode(kind, repair.encode(message))


@pytest.mark.parametrize("message", [GOOD, PIECE, changed(GOOD, first=7, runs=(), damaged=())])
def test_what_is_in_order_is_read(message: repair.Answer) -> None:
    assert repair.decode(Kind.REPAIR_ANSWER, repair.encode(message)) == message


def test_the_term_of_an_entry_is_that_of_the_run_it_is_in() -> None:
    assert [GOOD.term_at(index) for index in range(2, 8)] == [None, 1, 1, 2, 2, None]
    assert GOOD.verdict(4, 1) is Verdict.DAMAGED and GOOD.verdict(5, 2) is Verdict.HAVE


def test_damage_is_told_in_as_few_places_as_it_can_be_and_never_as_less() -> None:
    assert repair.joined([(1, 2), (3, 3), (5, 6)], 9) == ((1, 3), (5, 6))
    many = [(n, n) for n in range(1, 4 * repair.MAX_PLACES, 2)]
    told = repair.joined(many, 99_999)
    assert len(told) == repair.MAX_PLACES and told[-1][1] == 99_999
