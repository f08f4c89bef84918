"""Who a client is: its HELLO names a mechanism, and the mechanism says what proves a name.

Owns the list of mechanisms that a node offers. It does not decide what a principal may do.
"""

from __future__ import annotations

from disheap.errors import CredentialsRefused, UnknownMechanism
from disheap.protocol import handshake
from disheap.protocol.handshake import ANONYMOUS, EXTERNAL, MECHANISMS, Hello


def authenticate(hello: Hello, certificate_name: str | None) -> str:
    """The principal: the name that is proved, or "". Raises `UnknownMechanism` and `CredentialsRefused`."""
    match hello.mechanism:
        case handshake.ANONYMOUS:
            return _anonymous(hello.credentials, certificate_name)
        case handshake.EXTERNAL:
            return _external(hello.credentials, certificate_name)
        case _:
            raise UnknownMechanism(
                f"there is no mechanism {hello.mechanism!r} to authenticate with; this node has {', '.join(MECHANISMS)}"
            )


def _anonymous(credentials: bytes, certificate_name: str | None) -> str:
    """A certificate counts although it is not mentioned: without its name, its owner would be free of every limit that
    is set for a name."""
    if credentials:
        raise CredentialsRefused(f"the mechanism {ANONYMOUS} takes no credentials, and {len(credentials)} bytes came")
    return certificate_name or ""


def _external(credentials: bytes, certificate_name: str | None) -> str:
    if not certificate_name:
        raise CredentialsRefused(
            f"the mechanism {EXTERNAL} takes the name from the client's certificate, and this connection has none; "
            f"connect with TLS and a certificate, or use {ANONYMOUS}"
        )
    if credentials not in (b"", certificate_name.encode()):
        raise CredentialsRefused(
            f"the certificate is for {certificate_name!r}, and the client asks for another name; leave the credentials "
            "empty"
        )
    return certificate_name
