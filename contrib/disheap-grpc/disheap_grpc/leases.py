"""Lease tokens as clients see them: opaque, and good for the client that got them, at the node that gave them.

All requests of a node's service run in one session of the cluster. So the cluster cannot tell its clients apart, and
this module does. A token has a checksum over the lease and the client's name. Its key is drawn at each start.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from disheap.errors import InvalidArgument
from disheap.protocol import broker
from disheap_grpc.settings import COUNT_MAX

_LEASE = struct.Struct(">QQ")
_CHECK_BYTES = 12
LEASE_BYTES = _LEASE.size + _CHECK_BYTES


class Leases:
    """Makes tokens and reads them. `key` is secret, of 16 to 64 bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def seal(self, token: broker.Token, principal: str) -> bytes:
        """Returns the token for a client. Empty for a message without a lease."""
        if not token[1]:
            return b""
        lease = _LEASE.pack(*token)
        return lease + self._check(lease, principal)

    def open(self, sealed: Sequence[bytes], principal: str) -> tuple[list[broker.Token], list[bytes]]:
        """Returns the leases, each once, and the tokens that were not made here for this client. Raises
        `InvalidArgument` for none, for too many, and for bytes that are no token."""
        if not 1 <= len(sealed) <= COUNT_MAX:
            raise InvalidArgument(f"a request names 1 to {COUNT_MAX} leases, not {len(sealed)}")
        found: dict[broker.Token, None] = {}
        foreign: list[bytes] = []
        for one in sealed:
            if len(one) != LEASE_BYTES:
                raise InvalidArgument(f"a lease has {LEASE_BYTES} bytes, not {len(one)}: send it as it came")
            lease, check = one[: _LEASE.size], one[_LEASE.size :]
            if check == self._check(lease, principal):
                number, epoch = _LEASE.unpack(lease)
                found[(number, epoch)] = None
            else:
                foreign.append(one)
        return list(found), foreign

    def _check(self, lease: bytes, principal: str) -> bytes:
        return hashlib.blake2b(lease + principal.encode(), key=self._key, digest_size=_CHECK_BYTES).digest()
