"""Makes TLS contexts from certificates, and texts from TLS errors.

Both ends always prove who they are. A listener refuses a client without a certificate of the same authority. A client
checks that the certificate names the host it meant to reach. TLS 1.3 alone, because both ends are disheap.
"""

from __future__ import annotations

import ssl
from typing import Annotated

from msgspec import Meta

from disheap.certificates import load_authorities, load_certificate
from disheap_tcp import link
from disheap_tcp.options import TcpSettings


class TlsSettings(TcpSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of the transport `tls`, from the table `[transport.tls]`."""

    cafile: Annotated[str, Meta(min_length=1, max_length=4096, description="PEM: the authorities that both ends trust")]
    certfile: Annotated[
        str, Meta(min_length=1, max_length=4096, description="PEM: this end's certificate and its chain")
    ]
    keyfile: Annotated[str, Meta(min_length=1, max_length=4096, description="PEM: this end's private key, unencrypted")]
    shared_keyfile: Annotated[
        bool, Meta(description="take a key file that others than its owner may read, where something else guards it")
    ] = False  # whoever reads the key can act as this node; a mounted secret may have no other mode
    server_name: Annotated[
        str, Meta(max_length=253, description="the name a server must prove, where it is not the host of its address")
    ] = ""
    handshake_timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="a connection that has not proved itself by then is closed")
    ] = 5.0  # four round trips and a signature, on a slow link with a loss
    handshakes: Annotated[
        int,
        Meta(
            ge=1,
            le=65535,
            description="unfinished handshakes of a port at a time; the oldest that has stalled gives way, more wait",
        ),
    ] = 256  # 60 KB and a descriptor each; a thousand strangers a second keep none of their places for long
    handshakes_per_address: Annotated[
        int,
        Meta(ge=1, le=65535, description="of these, how many of one address (IPv6: of one /64) may have stalled"),
    ] = 64  # a host of workers that is slow to connect; three quarters of the places stay for others


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """Raises `ConfigError`."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, settings)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(settings: TlsSettings) -> ssl.SSLContext:
    """Raises `ConfigError`. The protocol's own defaults check the certificate and the name in it."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, settings)


def _context(protocol: int, settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    load_authorities(context, settings.cafile)
    load_certificate(context, settings.certfile, settings.keyfile, shared_keyfile=settings.shared_keyfile)
    return context


_REASONS = (
    ("CERTIFICATE_EXPIRED", "the other side says that this side's certificate has expired; renew certfile"),
    ("UNKNOWN_CA", "the other side does not know the authority of this side's certificate; compare cafile on both"),
    ("CERTIFICATE_REQUIRED", "the other side wants a certificate and got none"),
    ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "the client has no certificate; this port needs one"),
    ("BAD_CERTIFICATE", "the other side refuses this side's certificate"),
    ("HTTP_REQUEST", "the other side speaks HTTP; this port needs TLS"),
    ("WRONG_VERSION_NUMBER", "the other side does not speak TLS; both sides need transport tls"),
    ("UNEXPECTED_MESSAGE", "the other side does not speak TLS; both sides need transport tls"),
    ("UNSUPPORTED_PROTOCOL", "the other side speaks no TLS 1.3"),
    ("PROTOCOL_VERSION", "the other side speaks no TLS 1.3"),
)


def explain(error: BaseException) -> str:
    """Why TLS failed, and what to do about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _verification(error)
    if isinstance(error, ssl.SSLError):
        said = f"{error.reason or ''} {error}".upper().replace(" ", "_")
        known = next((words for mark, words in _REASONS if mark in said), None)
        return f"TLS failed: {known or error.reason or error}"
    if isinstance(error, ConnectionResetError | ConnectionAbortedError | EOFError):
        words = "the other side closed in the TLS handshake; it may speak no TLS, or refuse this side's certificate"
        return words if not str(error) or "reset" in str(error).lower() else str(error)
    return link.explain(error)


SILENCE = "it closed before it said anything; it may have refused this side's certificate, and its log says why"
"""In TLS 1.3 a client is through before the server has judged its certificate, and asyncio sends no alert."""


def explain_lost(error: BaseException) -> str:
    """Explains why a connection that was made was lost. For a client, that is before the server has judged it."""
    if isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return f"{link.explain(error)}; right after connecting it means that this side's certificate was refused"
    return explain(error)


def _verification(error: ssl.SSLCertVerificationError) -> str:
    message = error.verify_message or str(error)
    if "expired" in message:
        hint = "renew it"
    elif "issuer" in message or "self-signed" in message or "self signed" in message:
        hint = "its authority is unknown here; compare cafile on both sides"
    elif "mismatch" in message or "not valid for" in message:
        hint = "connect by a name in it, or set server_name"
    else:
        hint = "check it with `openssl x509 -text`"
    return f"TLS failed: the other side's certificate is refused: {message}; {hint}"
