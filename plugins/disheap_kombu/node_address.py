"""Which node a kombu connection names: its port, and its URL in logs and banners.

kombu leaves a URL that a transport parses itself unread, so its `Connection.port` would be None. There is no hook for
it: the attribute is set before any transport exists. So `port` becomes a descriptor of kombu's class. It answers for
disheap URLs alone, and only where nothing was set; every other connection keeps the value that it was given.
"""

from __future__ import annotations

import re
import weakref
from typing import Any

from kombu.connection import Connection as KombuConnection

from disheap.client.core import url as urls
from disheap.errors import UrlError

_last_nodes: weakref.WeakKeyDictionary[Any, tuple[Any, str]] = weakref.WeakKeyDictionary()
"""For kombu connections: the URL and the node that took the last session."""


def node_in_use(owner: Any) -> str:
    """The address of the node that a kombu connection is connected to, or ""."""
    connection = vars(owner).get("_connection")
    return str(getattr(getattr(connection, "driver", None), "address", ""))


def note_node(owner: Any, address: str) -> None:
    """A kombu connection is connected to `address`. Its port stays that node's when it is closed."""
    _last_nodes[owner] = (vars(owner).get("hostname"), address)


def shown_uri(owner: Any, uri: str) -> str:
    """Where the connection is: the node in use. Before that, every URL it was given. Without credentials."""
    address = node_in_use(owner)
    scheme, separator, rest = urls.redact(uri).partition("://")
    if not separator:
        return urls.redact(uri)
    if not address:
        return ";".join(urls.redact(part) for part in owner.alt or ()) or f"{scheme}://{rest}"
    path_and_query = re.search(r"[/?].*", rest)
    return f"{scheme}://{address}{path_and_query[0] if path_and_query else ''}"


def port_of(owner: Any) -> int | None:
    """The first URL's port, until the connection has switched to a host that the first URL does not name. Then that
    host's, until another URL is set."""
    hostname = vars(owner).get("hostname") or ""
    try:
        addresses = urls.parse(urls.without_path(hostname)[0]).addresses
    except UrlError:
        return None
    noted_for, noted = _last_nodes.get(owner, ("", ""))
    address = node_in_use(owner) or (noted if noted_for == hostname else "")
    shown = address if address and address not in addresses else addresses[0]
    return int(shown.rpartition(":")[2])


class Port:
    """`Connection.port`."""

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        if owner is None:
            return None
        given = vars(owner).get("port")
        return port_of(owner) if given is None and _is_disheap(owner) else given

    def __set__(self, owner: Any, value: Any) -> None:
        """kombu writes back what it has read (`self.port = port or self.port`); that is not a port it was given."""
        vars(owner)["port"] = None if _is_disheap(owner) and value == port_of(owner) else value


def _is_disheap(owner: Any) -> bool:
    hostname = vars(owner).get("hostname")
    return isinstance(hostname, str) and hostname.startswith(("disheap://", "disheaps://"))


def install() -> None:
    """Does nothing if kombu computes the port itself by now."""
    if vars(KombuConnection).get("port", None) is None:
        KombuConnection.port = Port()
