"""`host:port` as people write it: names, IPv4, IPv6 in brackets, and `:8300` for every interface."""

from __future__ import annotations

from typing import NamedTuple

from disheap.errors import ConfigError

LAST_PORT = 65535


class Address(NamedTuple):
    """A host and a port."""

    host: str  # "" is every interface
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(address: str) -> Address:
    """Raises `ConfigError`.

    >>> parse("[::1]:8400")
    Address(host='::1', port=8400)
    >>> str(parse("localhost:8400"))
    'localhost:8400'
    """
    host, colon, port = address.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > LAST_PORT:
        raise ConfigError(f"{address!r} is not an address: write host:port, with a port from 0 to {LAST_PORT}")
    if ":" in host and not bracketed:
        raise ConfigError(f"{address!r} is not an address: an IPv6 host goes in brackets, [::1]:8400")
    return Address(host[1:-1] if bracketed else host, int(port))


def parse_remote(address: str) -> Address:
    """An address to connect to: it needs a host and a port. Raises `ConfigError`."""
    parsed = parse(address)
    if not parsed.host or not parsed.port:
        raise ConfigError(f"{address!r} cannot be connected to: it needs a host and a port, such as 127.0.0.1:8400")
    return parsed
