"""Whose connection it is: the part of a remote address that one owner has to himself.

An IPv4 address is one owner. Of IPv6, a /64 network is: whoever has one address there has 2^64 of them.
"""

from __future__ import annotations

import ipaddress

OWNED_IPV6_BITS = 64


def owner_of(remote: str) -> str:
    """The owner of `host:port`, as a transport writes it; "" if the host is no IP address.

    >>> owner_of("10.0.0.1:50000"), owner_of("[2001:db8::1]:50000"), owner_of("[::ffff:10.0.0.1]:50000")
    ('10.0.0.1', '2001:db8::/64', '10.0.0.1')
    >>> owner_of("inproc client 3")
    ''
    """
    address = _ip_address(remote)
    if address is None:
        return ""
    if address.version == 4 or address.is_loopback:
        return str(address)
    return str(ipaddress.ip_network((int(address), OWNED_IPV6_BITS), strict=False))


def is_loopback(remote: str) -> bool:
    """Whether the other end is on this machine, or in this process."""
    address = _ip_address(remote)
    return address is None or address.is_loopback


def _ip_address(remote: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    host = remote.rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
