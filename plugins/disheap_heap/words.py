"""Encoding, in one place: one cached encoder, and the replies that never vary."""

from __future__ import annotations

import msgspec

from disheap.protocol.broker import Done, Published, Settled

encode = msgspec.msgpack.Encoder().encode

DONE = encode(Done())
SETTLED_ONE = encode(Settled(1, []))
PUBLISHED = (encode(Published(0)), encode(Published(1)))
