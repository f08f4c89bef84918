"""Frames and the messages between nodes: what is written can be read, and nothing else is believed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.memory import peak_bytes

from disheap.errors import FrameTooLarge, InvalidArgument, MalformedFrame, WrongVersion
from disheap.kernel import membership
from disheap.kernel.types import (
    AppendReply,
    AppendRequest,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    Index,
    Member,
    Membership,
    Message,
    NodeId,
    SnapshotMeta,
    SnapshotReply,
    SnapshotRequest,
    Term,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from disheap.protocol import frames, handshake, peers
from disheap.protocol.frames import FrameReader, Kind

numbers = st.integers(0, (1 << 63) - 1)
times = st.integers(0, peers.MAX_TIME_MS)
data = st.binary(max_size=100)
route = (numbers, numbers, numbers)
members = st.lists(
    st.builds(Member, st.integers(1, 1 << 32), st.booleans(), data), max_size=4, unique_by=lambda m: m.id
)
memberships = members.map(lambda found: Membership(tuple(sorted(found, key=lambda m: m.id))))
commands = st.lists(st.builds(frames.envelope, st.just(Kind.COMMAND), st.just(0), *route, data), max_size=3)
DATA = {
    EntryKind.COMMANDS: commands.map(b"".join),
    EntryKind.NOOP: st.just(b""),
    EntryKind.MEMBERSHIP: memberships.map(membership.encode),
    EntryKind.SNAPSHOT_MARK: st.just(b""),
}


@st.composite
def appends(draw: st.DrawFn) -> AppendRequest:
    """Entries that follow each other, of terms that the leader may have."""
    terms = sorted(draw(st.lists(st.integers(1, (1 << 63) - 1), min_size=2, max_size=6)))
    previous, *own, term = [Term(term) for term in terms]
    first = draw(st.integers(0, 1 << 62))
    kinds = [draw(st.sampled_from(EntryKind)) for _ in own]
    entries = tuple(
        Entry(entry_term, Index(first + at), kind, draw(times), draw(DATA[kind]))
        for at, (entry_term, kind) in enumerate(zip(own, kinds, strict=True), 1)
    )
    ends = (NodeId(draw(numbers)), NodeId(draw(numbers)))
    return AppendRequest(*ends, term, Index(first), previous, entries, Index(draw(numbers)))


@st.composite
def snapshot_requests(draw: st.DrawFn) -> SnapshotRequest:
    snapshot_term, term = sorted([draw(st.integers(1, (1 << 63) - 1)), draw(st.integers(1, (1 << 63) - 1))])
    voters = draw(memberships.filter(membership.voters_of))
    meta = SnapshotMeta(Index(draw(st.integers(1, (1 << 63) - 1))), Term(snapshot_term), draw(times), voters)
    piece, is_last = draw(data), draw(st.booleans())
    return SnapshotRequest(NodeId(2), NodeId(1), Term(term), meta, draw(numbers), piece, is_last or not piece)


messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(VoteRequest, *route, numbers, numbers, st.booleans(), st.booleans(), numbers),
    st.builds(VoteReply, *route, st.booleans(), st.booleans(), numbers),
    appends(),
    st.builds(AppendReply, *route, st.booleans(), numbers, numbers, numbers),
    st.builds(Heartbeat, *route, numbers, numbers, numbers),
    st.builds(HeartbeatReply, *route, numbers),
    snapshot_requests(),
    st.builds(SnapshotReply, *route, numbers, numbers, st.booleans(), st.booleans()),
    st.builds(TimeoutNow, *route),
)


@given(st.integers(0, (1 << 32) - 1), messages)
def test_every_message_between_nodes_comes_back_as_it_was(group: int, message: Message) -> None:
    assert peers.decode(peers.encode(group, message)) == (group, message)


@given(messages, st.data())
def test_a_message_cut_short_or_altered_is_read_or_refused(message: Message, draw: st.DataObject) -> None:
    frame = bytearray(peers.encode(0, message))
    place = draw.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= draw.draw(st.integers(1, 255))
    for candidate in (bytes(frame), bytes(frame[:place])):
        try:
            _, read = peers.decode(candidate)
        except (MalformedFrame, WrongVersion):
            continue
        assert isinstance(read, Message)


ENDS = (NodeId(2), NodeId(1), Term(3))
TOO_MUCH = 1 << 63
VOTERS = Membership((Member(NodeId(1), True, b""),))
META = SnapshotMeta(Index(9), Term(3), 99, VOTERS)


def entry(index: int, term: int = 3, kind: EntryKind = EntryKind.NOOP, time_ms: int = 9, data: bytes = b"") -> Entry:
    return Entry(Term(term), Index(index), kind, time_ms, data)


def append(*entries: Entry, previous: int = 4) -> AppendRequest:
    return AppendRequest(*ENDS, Index(previous), Term(2), entries, Index(3))


def commands_of(data: bytes) -> AppendRequest:
    return append(entry(5, kind=EntryKind.COMMANDS, data=data))


WRONG: dict[str, Message] = {
    "a term beyond 63 bits": Heartbeat(NodeId(2), NodeId(1), Term(TOO_MUCH), Index(0), 0),
    "a node beyond 63 bits": Heartbeat(NodeId(TOO_MUCH), NodeId(1), Term(1), Index(0), 0),
    "a vote for a log without end": VoteRequest(*ENDS, Index(TOO_MUCH), Term(1), False, False),
    "a vote for a term without end": VoteRequest(*ENDS, Index(1), Term(TOO_MUCH), False, False),
    "a commit beyond 63 bits": Heartbeat(*ENDS, Index(TOO_MUCH), 0),
    "a round beyond 63 bits": HeartbeatReply(*ENDS, TOO_MUCH),
    "an index beyond 63 bits": AppendReply(*ENDS, True, Index(TOO_MUCH), Index(0), Term(0)),
    "a hint beyond 63 bits": AppendReply(*ENDS, False, Index(1), Index(TOO_MUCH), Term(0)),
    "an offset beyond 63 bits": SnapshotReply(*ENDS, Index(9), TOO_MUCH, False, False),
    "entries that end beyond 63 bits": append(entry(TOO_MUCH), previous=TOO_MUCH - 1),
    "a hole between entries": append(entry(5), entry(7)),
    "an index twice": append(entry(5), entry(5)),
    "entries that do not follow": append(entry(6)),
    "a term before that of the entry before": append(entry(5, term=1)),
    "terms that fall": append(entry(5, term=3), entry(6, term=2)),
    "a term after the leader's": append(entry(5, term=4)),
    "a time before all": append(entry(5, time_ms=-1)),
    "a time without end": append(entry(5, time_ms=1 << 47)),
    "commands that are none": commands_of(b"\xff" * 40),
    "commands that end early": commands_of(frames.envelope(Kind.COMMAND, 0, 7, 1, 0, b"body")[:-1]),
    "commands and a little more": commands_of(frames.envelope(Kind.COMMAND, 0, 7, 1, 0, b"body") + b"\x00"),
    "a command shorter than its header": commands_of((4).to_bytes(4, "little") + bytes(40)),
    "a version that is not said": commands_of(frames.envelope(Kind.RAISE_VERSION, 0, 0, 0, 0)),
    "an OPEN of nothing": commands_of(frames.envelope(Kind.OPEN, 0, 0, 1, 0, b"\xc1")),
    "an ATTACH of nothing": commands_of(frames.envelope(Kind.ATTACH, 0, 1, 1, 0, b"\xc1")),
    "members that cannot be read": append(entry(5, kind=EntryKind.MEMBERSHIP, data=b"\xff")),
    "a snapshot of nothing": SnapshotRequest(*ENDS, META._replace(index=Index(0)), 0, b"piece", True),
    "a snapshot of a later term": SnapshotRequest(*ENDS, META._replace(term=Term(4)), 0, b"piece", True),
    "a snapshot of nobody": SnapshotRequest(*ENDS, META._replace(membership=Membership(())), 0, b"piece", True),
    "a snapshot before all time": SnapshotRequest(*ENDS, META._replace(time_ms=-1), 0, b"piece", True),
    "a snapshot that never ends": SnapshotRequest(*ENDS, META, 0, b"", False),
}


@pytest.mark.parametrize("message", WRONG.values(), ids=WRONG)
def test_what_no_node_that_does_its_work_says_is_refused_when_it_is_read(message: Message) -> None:
    """A term of 64 bits ended every node, and again at each start. Entries with a hole, and what was no command, ended
    the node that accepted them."""
    with pytest.raises(MalformedFrame, match="a message between nodes cannot be read"):
        peers.decode(peers.encode(0, message))


def test_entries_announced_and_not_there_are_refused_before_memory_is_taken() -> None:
    frame = peers.encode(0, AppendRequest(NodeId(1), NodeId(2), Term(1), Index(0), Term(0), (), Index(0)))
    lying = frame[:-4] + (1 << 31).to_bytes(4, "little")
    with pytest.raises(MalformedFrame, match="do not fit"):
        peers.decode(lying)


@given(st.lists(st.binary(max_size=50), max_size=10), st.data())
def test_a_reader_gives_whole_frames_wherever_the_stream_is_cut(bodies: list[bytes], draw: st.DataObject) -> None:
    sent = [frames.plain(Kind.PONG, body) for body in bodies]
    stream, read = b"".join(sent), []
    reader = FrameReader(1000)
    while stream:
        size = draw.draw(st.integers(1, len(stream)))
        read.extend(frame for _, frame in reader.frames(stream[:size]))
        stream = stream[size:]
    assert read == sent


small = st.integers(0, 4)
envelopes = st.builds(
    frames.envelope, st.sampled_from((1, 1, 1, 2, 4)), st.sampled_from((0, 0, 0, 2)), *[small] * 3, data
)
others = st.builds(frames.plain, st.sampled_from((0, 18, 19, 21)), data)


def may_be_logged(frame: bytes, session: int) -> bool:
    if len(frame) < frames.ENVELOPE.size or frame[4] != Kind.COMMAND:
        return False
    found = frames.open_envelope(frame)
    return found.session == session > 0 and found.confirmed < found.seq and not found.flags & frames.Flags.TRANSIENT


@given(st.lists(st.one_of(envelopes, envelopes, others), max_size=12), small, st.data())
def test_runs_hold_the_commands_that_may_be_logged_and_nothing_else(
    sent: list[bytes], session: int, draw: st.DataObject
) -> None:
    stream, read = b"".join(sent), []
    reader = FrameReader(1000)
    while stream:
        size = draw.draw(st.integers(1, len(stream)))
        for kind, buffer, start, end in reader.cut(stream[:size], session):
            found = [each for _, each in FrameReader(1000).frames(buffer[start:end])]
            assert [may_be_logged(each, session) for each in found] == [kind == frames.RUN] * len(found)
            assert kind == frames.RUN or [kind] == [each[4] for each in found]
            read += found
        stream = stream[size:]
    assert read == sent and not reader.held_bytes


def test_commands_that_follow_each_other_are_one_run() -> None:
    run = b"".join(frames.envelope(Kind.COMMAND, 0, 7, seq, seq - 1, b"body") for seq in (1, 2, 3))
    stream = run + frames.plain(Kind.PING) + run
    found = [(kind, end - start) for kind, _, start, end in FrameReader(1000).cut(stream, 7)]
    assert found == [(frames.RUN, len(run)), (Kind.PING, 6), (frames.RUN, len(run))]


def test_frames_before_a_bad_one_are_given_first() -> None:
    cut = FrameReader(100).cut(frames.envelope(Kind.COMMAND, 0, 7, 1, 0) + (101).to_bytes(4, "little") + bytes(50), 7)
    assert next(cut)[0] == frames.RUN
    with pytest.raises(FrameTooLarge, match="101 bytes is over the limit of 100"):
        next(cut)


def test_a_limit_that_is_raised_counts_from_the_next_frame_on() -> None:
    reader, large = FrameReader(100), frames.plain(Kind.QUERY, bytes(200))
    kinds = []
    for kind, _ in reader.frames(frames.plain(Kind.HELLO) + large + large):
        kinds.append(kind)
        reader.set_limit(1000)
    assert kinds == [Kind.HELLO, Kind.QUERY, Kind.QUERY]


def test_a_piece_of_a_long_frame_costs_no_copy_of_the_pieces_before_it() -> None:
    size, piece = 32 << 20, bytes(64 << 10)
    reader = FrameReader(size)
    list(reader.cut(size.to_bytes(4, "little") + bytes(size // 2)))
    list(reader.cut(piece))
    assert peak_bytes(lambda: list(reader.cut(piece))) < size // 8
    (frame,) = (frame for _, frame in reader.frames(bytes(size // 2 - 2 * len(piece))))
    assert len(frame) == size + 4


def test_a_frame_over_the_limit_is_refused_by_its_header_alone() -> None:
    with pytest.raises(FrameTooLarge, match="5000 bytes is over the limit of 4000"):
        list(FrameReader(4000).cut((5000).to_bytes(4, "little")))


def test_a_stranger_is_told_to_look_at_the_port_whatever_its_first_bytes() -> None:
    with pytest.raises(FrameTooLarge, match="does not speak the disheap protocol; check the address and the port"):
        list(FrameReader().cut(b"GET / HTTP/1.1"))


@pytest.mark.parametrize("opener", [frames.open_envelope, frames.open_reply, frames.open_numbered])
def test_a_frame_shorter_than_its_header_is_refused(opener: object) -> None:
    assert callable(opener)
    with pytest.raises(MalformedFrame, match="shorter than its header"):
        opener(frames.plain(Kind.QUERY))


@given(numbers, numbers, numbers, data)
def test_an_envelope_comes_back_as_it_was(session: int, seq: int, confirmed: int, body: bytes) -> None:
    read = frames.open_envelope(frames.envelope(Kind.COMMAND, 3, session, seq, confirmed, body))
    assert read == frames.Envelope(Kind.COMMAND, 3, session, seq, confirmed, body)


def test_a_refusal_repeats_the_beginning_of_a_long_text() -> None:
    error = InvalidArgument("no topic " + "x" * 1_000_000)
    said = msgspec.msgpack.decode(frames.fault(error), type=frames.Fault)
    assert (said.code, len(said.message)) == (error.code, frames.FAULT_CHARACTERS)
    assert said.message.startswith("no topic xxx") and said.message.endswith(" ...")


def test_an_envelope_of_an_unknown_kind_is_refused_with_the_known_kinds() -> None:
    frame = peers.encode(0, commands_of(frames.envelope(15, 0, 0, 0, 0)))
    with pytest.raises(WrongVersion, match=r"kind 15.*log_version 1 to 1.*newer release"):
        peers.decode(frame)


def test_a_message_between_nodes_exists_from_its_version_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.MESSAGES_SINCE, peers.Type.HEARTBEAT, 3)
    message = Heartbeat(*ENDS, Index(1), 0)
    assert not peers.exists(message, 2) and peers.exists(message, 3)
    assert peers.decode(peers.encode(0, message), 3) == (0, message)
    with pytest.raises(WrongVersion, match=r"type 5 does not exist in protocol version 2.*install the same"):
        peers.decode(peers.encode(0, message), 2)
    unknown = bytearray(peers.encode(0, message))
    unknown[5] = 77
    with pytest.raises(WrongVersion, match="type 77 does not exist"):
        peers.decode(bytes(unknown), 3)


def test_every_envelope_and_every_message_between_nodes_has_its_version() -> None:
    assert set(frames.ENVELOPES_SINCE) == {kind for kind in Kind if kind < Kind.HELLO}
    assert max(frames.ENVELOPES_SINCE.values()) <= frames.LOG_VERSIONS[1]
    handshaking = {Kind.PEER_HELLO, Kind.PEER_WELCOME, Kind.PEER_CHALLENGE, Kind.PEER_PROOF}
    assert set(frames.PEER_FRAMES_SINCE) == {kind for kind in Kind if kind >= Kind.PEER_HELLO} - handshaking
    assert set(peers.MESSAGES_SINCE) == set(peers.Type)
    for since in (*frames.PEER_FRAMES_SINCE.values(), *peers.MESSAGES_SINCE.values()):
        assert handshake.SUPPORTED.lowest <= since <= handshake.SUPPORTED.highest
