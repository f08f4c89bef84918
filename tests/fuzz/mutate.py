"""Mutations of good inputs, drawn by hypothesis (which then makes a failure small) or by a plain generator."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from hypothesis import strategies as st

INTERESTING = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xc1", b"\xdd", b"\xdf")
NESTED = b"\x91" * 3000
"""Arrays in arrays: deeper than a recursive reader may go."""
MOST_CHANGES = 8


def mutated(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(
        st.tuples(st.sampled_from(list(seeds)), st.integers(0, (1 << 64) - 1)).map(
            lambda drawn: mutate(drawn[0], seeds, Random(drawn[1]))
        ),
        st.binary(max_size=200),
    )


def mutate(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.randint(1, MOST_CHANGES)):
        _change(changed, seeds, random)
    return bytes(changed)


def _change(data: bytearray, seeds: Sequence[bytes], random: Random) -> None:
    at = random.randrange(len(data) + 1)
    match random.randrange(10):
        case 0 if at < len(data):
            data[at] ^= 1 << random.randrange(8)
        case 1 if at < len(data):
            data[at] = random.randrange(256)
        case 2:
            data[at:at] = random.randbytes(random.randint(1, 16))
        case 3:
            del data[at : at + random.randint(1, 16)]
        case 4:
            del data[at:]
        case 5:
            piece = random.choice(INTERESTING)
            data[at : at + len(piece)] = piece
        case 6:
            other = random.choice(seeds)
            start = random.randrange(len(other) + 1)
            data[at:at] = other[start : start + random.randint(1, 64)]
        case 7:
            data[at:at] = data[: random.randint(0, 64)]
        case 8 if random.random() < 0.05:
            data[at:at] = NESTED[: random.choice((200, 1000, 3000))]
        case _:
            width = random.choice((1, 2, 4, 8))
            value = random.choice((0, 1, 2, (1 << 8 * width) - 1, 1 << (8 * width - 1), random.getrandbits(8 * width)))
            data[at : at + width] = value.to_bytes(width, random.choice(("little", "big")))
