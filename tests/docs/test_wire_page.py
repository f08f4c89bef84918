"""The page on the wire protocol is what the code does: its tables are compared with the bytes that the code makes."""

from __future__ import annotations

import re
import struct

import msgspec
import pytest
from wire_page import MARK, PAGE, render

from disheap.kernel.types import Heartbeat, Index, NodeId, Term
from disheap.protocol import frames, handshake, peers
from disheap.protocol.frames import Flags, Kind
from disheap.protocol.handshake import MECHANISMS, SUPPORTED, Hello
from disheap.runtime.admin import OPS

TEXT = PAGE.read_text()
LAYOUT = re.compile(r"^\| bytes \| field \| meaning \|\n\|---\|---\|---\|\n((?:\|.*\|\n)+)", re.MULTILINE)
ROW = re.compile(r"^\| (\d+)-?(\d*) \| (\w+) \|", re.MULTILINE)
KIND = re.compile(r"^\| (\d+) \| ([A-Z_]+) \|", re.MULTILINE)
HEARTBEAT = Heartbeat(NodeId(7), NodeId(8), Term(9), Index(5), 6)

MADE: list[tuple[bytes, dict[str, int]]] = [
    (frames.plain(Kind.HELLO, b"body"), {"length": 6, "kind": Kind.HELLO, "flags": 0}),
    (frames.envelope(Kind.COMMAND, 0, 7, 8, 6, b"body"), {"session": 7, "seq": 8, "confirmed": 6}),
    (frames.request(Kind.QUERY, 9, b"body"), {"number": 9}),
    (frames.reply(Kind.REPLY, 0, 8, 11, b"body"), {"seq": 8, "index": 11}),
    (handshake.hello(Kind.HELLO, Hello())[6:], {"lowest": SUPPORTED.lowest, "highest": SUPPORTED.highest}),
    (handshake.welcome(Kind.WELCOME, 2, Hello())[6:], {"version": 2}),
    (frames.GRANT.pack(7, 60_000, bytes(16)), {"session": 7, "timeout_ms": 60_000}),
    (peers.encode(4, HEARTBEAT), {"group": 4, "source": 7, "target": 8, "term": 9}),
]
"""Bytes from the code, and what the fields of the table of the same place hold, in the order of the page."""


def tables() -> list[dict[str, tuple[int, int]]]:
    """The fields of each layout in the page: where each begins and ends."""
    return [
        {name: (int(first), int(last or first) + 1) for first, last, name in ROW.findall(table)}
        for table in LAYOUT.findall(TEXT)
    ]


def test_the_second_part_is_made_from_the_code() -> None:
    """`python -m tests.docs.wire_page` makes it anew."""
    is_made = TEXT.partition(MARK)[2].strip() == render().strip()
    assert is_made, "disheap.protocol or disheap.errors has changed: run python -m tests.docs.wire_page"


def test_every_layout_of_the_page_is_compared() -> None:
    assert len(tables()) == len(MADE)


@pytest.mark.parametrize("place", range(len(MADE)))
def test_the_fields_stand_where_the_page_says(place: int) -> None:
    data, fields = MADE[place]
    layout = tables()[place]
    for name, value in fields.items():
        start, end = layout[name]
        assert int.from_bytes(data[start:end], "little") == value, name
    numbers = {name for name in layout if name not in ("body", "content", "magic", "secret")}
    assert numbers == set(fields), "a field of the page is not compared"


def test_bodies_begin_where_the_page_says() -> None:
    bodies = [data[layout["body"][0] :] for layout, (data, _) in zip(tables(), MADE, strict=True) if "body" in layout]
    assert bodies == [b"body"] * 3 + [struct.pack("<QQQ", 5, 6, 0)]


def test_the_kinds_are_those_of_the_code() -> None:
    of_the_log = {Kind.DETACH, Kind.EXPIRE, Kind.CONTINUE, Kind.RAISE_VERSION, Kind.NODE_COMMAND}
    assert {int(number): name for number, name in KIND.findall(TEXT)} == {
        int(kind): kind.name for kind in Kind if kind not in of_the_log
    }


def test_the_example_of_a_hello_is_its_bytes() -> None:
    (shown,) = re.findall(r"sends these (\d+) bytes:\n`([0-9a-f ]+)`", TEXT)
    assert bytes.fromhex(shown[1]) == handshake.hello(Kind.HELLO, Hello()) and int(shown[0]) == len(shown[1].split())


def test_numbers_of_the_page_are_those_of_the_code() -> None:
    assert TEXT.startswith(f"# Wire protocol\n\nProtocol version {SUPPORTED.highest}.")
    assert f"at most {frames.HANDSHAKE_FRAME_BYTES:,} bytes" in TEXT
    assert f"flag {Flags.TRANSIENT} (transient)" in TEXT
    assert set(re.findall(r"^\| `(\w+)` \| empty", TEXT, re.MULTILINE)) == set(MECHANISMS)


def test_every_admin_request_is_on_the_page() -> None:
    assert set(re.findall(r"^\| `([\w-]+)` \| \{", TEXT, re.MULTILINE)) == set(OPS)


def test_the_map_of_a_hello_may_be_empty() -> None:
    assert msgspec.convert({}, Hello) == Hello()
