"""Authenticates a client. Its HELLO names a mechanism, and the mechanism says what proves a name.

A certificate may have several names. The first one is the principal. Sessions and limits are bound to it, so the order
of the names must stay when a certificate is renewed.

Owns the list of mechanisms that a node offers. It does not decide what a principal may do.
"""

from __future__ import annotations

from disheap.errors import CredentialsRefused, UnknownMechanism
from disheap.protocol import handshake
from disheap.protocol.handshake import ANONYMOUS, EXTERNAL, MECHANISMS, Hello


def certificate_principal(names: tuple[str, ...] | None) -> str:
    """The first of the names that were proved, or "" without one."""
    return names[0] if names else ""


def authenticate(hello: Hello, certificate_names: tuple[str, ...] | None) -> str:
    """The principal: the name that is proved, or "". Raises `UnknownMechanism` and `CredentialsRefused`."""
    name = certificate_principal(certificate_names)
    match hello.mechanism:
        case handshake.ANONYMOUS:
            return _anonymous(hello.credentials, name)
        case handshake.EXTERNAL:
            return _external(hello.credentials, name)
        case _:
            raise UnknownMechanism(
                f"there is no mechanism {hello.mechanism!r} to authenticate with; this node has {', '.join(MECHANISMS)}"
            )


def _anonymous(credentials: bytes, name: str) -> str:
    """A certificate counts although it is not mentioned: without its name, its owner would be free of every limit that
    is set for a name."""
    if credentials:
        raise CredentialsRefused(f"the mechanism {ANONYMOUS} takes no credentials, and {len(credentials)} bytes came")
    return name


def _external(credentials: bytes, name: str) -> str:
    if not name:
        raise CredentialsRefused(
            f"the mechanism {EXTERNAL} takes the name from the client's certificate, and this connection has none; "
            f"connect with TLS and a certificate, or use {ANONYMOUS}"
        )
    if credentials not in (b"", name.encode()):
        raise CredentialsRefused(
            f"the first name in the certificate is {name!r}, and the client asks for another name; leave the "
            "credentials empty"
        )
    return name
