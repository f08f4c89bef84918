"""Broker URLs: `disheap://host1,host2:8400?session_timeout_ms=15000`, and `disheaps://` for TLS.

Owns the grammar and its errors. It does not connect. No message and no `redact`ed text holds a password, because URLs
end up in logs.

    url    = one *( ( ";" | "," ) one )  alternates, as kombu spells them (";"): all hosts are one cluster's
    one    = scheme "://" [ hosts ] [ "/" ] [ "?" parameters ]
    hosts  = host [ ":" port ] *( "," host [ ":" port ] )         "" is localhost; IPv6 in brackets, with %zone or not

A path after the hosts names a virtual host, which kombu and Celery have: `without_path` takes it off.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, unquote

from disheap.errors import UrlError
from disheap.protocol.handshake import ANONYMOUS, GROUP_MAX, Hello
from disheap.version import __version__

DEFAULT_PORT = 8400
DEFAULT_HOST = "localhost"
HOSTS_MAX = 64
"""Hosts in one URL; a cluster has a handful, and each is tried in turn."""
VIRTUAL_HOST_CHARACTERS = 64
SCHEMES = {"disheap": "tcp", "disheaps": "tls"}
TLS_KEYS = ("cafile", "certfile", "keyfile", "server_name")
PLUGIN_PREFIX = "transport."

CONFIRM_PARTS = 6
"""A publish of kombu waits this part of the session timeout for its confirm, unless the URL says otherwise. By default
that is 10 s: longer than a failover takes (4 s at most), and far shorter than `timeout_s`."""
CONFIRM_LEAST_S = 4.0
"""However short the session timeout: the longest failover, and Celery's own time for a connection."""

_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)(?:%(?:25)?([A-Za-z0-9._~-]+))?\](?::(.*))?")
_BETWEEN = re.compile(rf";|,(?=\s*(?:{'|'.join(SCHEMES)})://)")
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_CREDENTIALS = re.compile(r"(?<=://).*@", re.DOTALL)  # to the last @: a password may hold any character


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """What a URL says. `group` is the number of the group that a client speaks to. `mechanism` is how a client
    authenticates. A node that does not offer it names those that it offers. `transport_table` goes to the transport
    plugin's own settings."""

    addresses: tuple[str, ...] = (f"{DEFAULT_HOST}:{DEFAULT_PORT}",)
    transport: str = "tcp"
    session_timeout_ms: int = 60_000
    connect_timeout_s: float = 5.0
    timeout_s: float = 30.0
    label: str = ""
    transport_table: dict[str, str] = field(default_factory=dict)
    confirm_timeout_s: float = 0.0
    group: int = 0
    mechanism: str = ANONYMOUS

    @property
    def confirm_s(self) -> float:
        """How long a publish of kombu waits for its confirm: `confirm_timeout_s`. If that is 0, a part of the session
        timeout, and `timeout_s` at most."""
        scaled_s = max(CONFIRM_LEAST_S, self.session_timeout_ms / 1000 / CONFIRM_PARTS)
        return self.confirm_timeout_s or min(self.timeout_s, scaled_s)


def parse(text: str) -> BrokerUrl:
    """Raises `UrlError` naming the part that is wrong."""
    _refuse_credentials(text)
    parts = [part.strip() for part in _BETWEEN.split(text)]
    parsed = [_one(part) for part in parts if part]
    if not parsed:
        raise UrlError("an empty broker URL; write disheap://host1,host2,host3")
    first, *others = parsed
    for other in others:
        if other.transport != first.transport:
            raise UrlError(f"{redact(text)}: the alternates use different transports; use one scheme for all")
    addresses = tuple(dict.fromkeys(address for url in parsed for address in url.addresses))
    if len(addresses) > HOSTS_MAX:
        raise UrlError(f"{len(addresses)} hosts in a broker URL are over the limit of {HOSTS_MAX}")
    return replace(first, addresses=addresses)


def _refuse_credentials(text: str) -> None:
    if "@" in text:
        raise UrlError(
            f"{redact(text)}: disheap has no user names and passwords; use disheaps:// with a client certificate "
            "(an @ in a parameter is spelled %40)"
        )


def resolve(
    url: str | BrokerUrl, *, session_timeout_ms: int | None, timeout_s: float | None, label: str | None
) -> BrokerUrl:
    """A URL with the keywords of `connect` over it, where they are not None. Raises `UrlError`."""
    given = {"session_timeout_ms": session_timeout_ms, "timeout_s": timeout_s, "label": label}
    parsed = parse(url) if isinstance(url, str) else url
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    return replace(parsed, **changes)


def hello_of(url: BrokerUrl, client: str) -> Hello:
    """Returns the content of the HELLO of a client with this URL."""
    return Hello(
        group=url.group, client=client, client_version=__version__, mechanism=url.mechanism, follows_members=True
    )


def without_path(text: str, other: str = "") -> tuple[str, str]:
    """A broker URL without its path, and the virtual host that the path names, "" for none. `other` counts if there is
    no path. The alternates of a URL name the same one, or none. Raises `UrlError`."""
    _refuse_credentials(text)
    names, parts = [], []
    for part in _BETWEEN.split(text):
        rest, mark, query = part.partition("?")
        start = rest.find("://") + 3 if "://" in rest else 0
        hosts, _, path = rest[start:].partition("/")
        names.append(unquote(path).strip("/"))
        parts.append(f"{rest[:start]}{hosts}{mark}{query}")
    given = {name for name in names if name} or {other.strip("/")}
    if len(given) > 1:
        raise UrlError(f"{redact(text)}: the alternates name the virtual hosts {', '.join(sorted(given))}; name one")
    (name,) = given
    if "/" in name or len(name) > VIRTUAL_HOST_CHARACTERS or not name.isprintable():
        raise UrlError(
            f"{redact(text)}: {name!r} is no name of a virtual host. It has at most {VIRTUAL_HOST_CHARACTERS} "
            "printable characters, and no /"
        )
    return ";".join(parts), name


def redact(text: str) -> str:
    """The URL without whatever stands before its last `@`."""
    return _CREDENTIALS.sub("***@", text)


def _one(text: str) -> BrokerUrl:
    shown = text  # no @ in it: nothing to hide
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in SCHEMES:
        raise UrlError(f"{shown}: a broker URL starts with disheap:// or, for TLS, disheaps://")
    hosts, _, query = rest.partition("?")
    hosts, _, path = hosts.partition("/")
    if path.strip("/"):
        raise UrlError(
            f"{shown}: only kombu and Celery have virtual hosts; leave out /{path}, and write the topic as "
            f"{path.strip('/')}/NAME"
        )
    addresses = tuple(_address(host, shown) for host in hosts.split(",")) if hosts else BrokerUrl().addresses
    return _with_parameters(replace(BrokerUrl(), addresses=addresses, transport=SCHEMES[scheme]), query, shown)


def _address(text: str, shown: str) -> str:
    text = text.strip()
    if match := _BRACKETED.fullmatch(text):
        zone = f"%{match[2]}" if match[2] else ""
        return f"[{match[1]}{zone}]:{_port(match[3], shown)}"
    host, separator, port = text.partition(":")
    if not _HOST.fullmatch(host):
        raise UrlError(f"{shown}: {text!r} is not a host; write host or host:port, an IPv6 address in [brackets]")
    return f"{host}:{_port(port if separator else None, shown)}"


def _port(text: str | None, shown: str) -> int:
    if text is None:
        return DEFAULT_PORT
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise UrlError(f"{shown}: {text!r} is not a port; it is a number from 1 to 65535")
    return int(text)


def _number(convert: Callable[[str], Any], low: float, high: float, what: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            raise ValueError(f"is not {what}") from None
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}")
        return value

    return read


PARAMETERS: dict[str, Callable[[str], Any]] = {
    "session_timeout_ms": _number(int, 100, 86_400_000, "a whole number of milliseconds"),
    "connect_timeout_s": _number(float, 0.01, 3600, "a number of seconds"),
    "timeout_s": _number(float, 0.01, 86_400, "a number of seconds"),
    "confirm_timeout_s": _number(float, 0.01, 86_400, "a number of seconds"),
    "label": str,
    "group": _number(int, 0, GROUP_MAX, "the number of a group"),
    "mechanism": str,
    "transport": str,
}


def _with_parameters(url: BrokerUrl, query: str, shown: str) -> BrokerUrl:
    changes: dict[str, Any] = {}
    table: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key in TLS_KEYS:
            table[key] = value
        elif key.startswith(PLUGIN_PREFIX):
            table[key.removeprefix(PLUGIN_PREFIX)] = value
        elif key in PARAMETERS:
            changes[key] = _read(key, value, shown)
        else:
            known = ", ".join([*PARAMETERS, *TLS_KEYS, PLUGIN_PREFIX + "KEY"])
            raise UrlError(f"{shown}: unknown parameter {key!r}; known are {known}")
    return replace(url, transport_table=table, **changes)


def _read(key: str, value: str, shown: str) -> Any:
    try:
        return PARAMETERS[key](value)
    except ValueError as error:
        raise UrlError(f"{shown}: {key}={value!r} {error}") from None
