"""Frames and the messages between nodes: what is written can be read, and nothing else is believed."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.memory import peak_bytes

from disheap.errors import FrameTooLarge, InvalidArgument, MalformedFrame, WrongVersion
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
from disheap.protocol import frames, peers
from disheap.protocol.frames import FrameReader, Hello, Kind

numbers = st.integers(0, (1 << 64) - 1)
times = st.integers(-(1 << 63), (1 << 63) - 1)
data = st.binary(max_size=100)
route = (numbers, numbers, numbers)
entries = st.builds(Entry, numbers, numbers, st.sampled_from(EntryKind), times, data)
members = st.lists(
    st.builds(Member, st.integers(1, 1 << 32), st.booleans(), data), max_size=4, unique_by=lambda m: m.id
)
snapshots = st.builds(
    SnapshotMeta,
    numbers,
    numbers,
    times,
    members.map(lambda found: Membership(tuple(sorted(found, key=lambda m: m.id)))),
)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(VoteRequest, *route, numbers, numbers, st.booleans(), st.booleans()),
    st.builds(VoteReply, *route, st.booleans(), st.booleans()),
    st.builds(AppendRequest, *route, numbers, numbers, st.lists(entries, max_size=4).map(tuple), numbers),
    st.builds(AppendReply, *route, st.booleans(), numbers, numbers, numbers),
    st.builds(Heartbeat, *route, numbers, numbers),
    st.builds(HeartbeatReply, *route, numbers),
    st.builds(SnapshotRequest, *route, snapshots, numbers, data, st.booleans()),
    st.builds(SnapshotReply, *route, numbers, numbers, st.booleans(), st.booleans()),
    st.builds(TimeoutNow, *route),
)


@given(st.integers(0, (1 << 32) - 1), messages)
def test_every_message_between_nodes_comes_back_as_it_was(group: int, message: Message) -> None:
    assert peers.decode(peers.encode(group, message)) == (group, message)


@given(messages, st.data())
def test_a_message_cut_short_or_altered_is_read_or_refused_and_never_fails_otherwise(
    message: Message, draw: st.DataObject
) -> None:
    frame = bytearray(peers.encode(0, message))
    place = draw.draw(st.integers(0, len(frame) - 1))
    frame[place] ^= draw.draw(st.integers(1, 255))
    for candidate in (bytes(frame), bytes(frame[:place])):
        try:
            _, read = peers.decode(candidate)
        except MalformedFrame:
            continue
        assert isinstance(read, Message)


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


def test_a_piece_of_a_long_frame_costs_no_copy_of_the_pieces_before_it() -> None:
    size, piece = 32 << 20, bytes(64 << 10)
    reader = FrameReader(size)
    reader.feed(size.to_bytes(4, "little") + bytes(size // 2))
    reader.feed(piece)
    assert peak_bytes(lambda: reader.feed(piece)) < size // 8
    (frame,) = (frame for _, frame in reader.frames(bytes(size // 2 - 2 * len(piece))))
    assert len(frame) == size + 4


def test_a_frame_over_the_limit_is_refused_by_its_header_alone() -> None:
    with pytest.raises(FrameTooLarge, match="5000 bytes is over the limit of 4000"):
        FrameReader(4000).feed((5000).to_bytes(4, "little"))


def test_a_stranger_is_told_to_look_at_the_port_whatever_length_its_first_bytes_make() -> None:
    with pytest.raises(FrameTooLarge, match="does not speak the disheap protocol; check the address and the port"):
        FrameReader().feed(b"GET / HTTP/1.1")


def test_a_hello_of_another_version_says_both_versions() -> None:
    body = frames.MAGIC + (7).to_bytes(2, "little")
    with pytest.raises(WrongVersion, match="version 7, this one 1"):
        frames.open_hello(body)


def test_a_hello_keeps_its_content() -> None:
    frame = frames.hello(Kind.HELLO, Hello("c", "me"))
    assert frames.open_hello(frames.open_plain(frame)) == b"\x82\xaacluster_id\xa1c\xa6client\xa2me"


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
