"""From a kombu connection's parameters to the client's URL.

Owns the names that kombu, Celery, pyamqp and Redis use for what a URL parameter says here. Every option that a broker
URL takes may stand in `broker_transport_options` too; where both name one, the URL counts. An option that nobody reads
warns. Refuses to connect.
"""

from __future__ import annotations

import difflib
import ssl
import warnings
from typing import Any
from urllib.parse import parse_qsl, quote

from disheap.client.core import url as urls
from disheap.errors import ConfigError

TLS_NAMES = {
    "ca_certs": "cafile",
    "cafile": "cafile",
    "certfile": "certfile",
    "keyfile": "keyfile",
    "server_hostname": "server_name",
    "server_name": "server_name",
}
"""`broker_use_ssl` in pyamqp's words and ours, without the prefix `ssl_` that Redis puts before them."""
TLS_FILES = ("ca_certs", "certfile", "keyfile")
TLS_FIXED = ("ssl_version", "version", "min_version", "ciphers")
"""Ignored: both ends speak TLS 1.3, whose ciphers are all sound."""
KOMBU_OPTIONS = frozenset(
    (
        "max_retries",
        "interval_start",
        "interval_step",
        "interval_max",
        "retry_errors",
        "errback",
        "callback",
        "timeout",
        "connect_retries_timeout",
        "confirm_publish",
    )
)
"""What kombu reads itself, and the retry policy of a publish, which it writes into the transport options. Publishes are
confirmed always."""
PREFETCH = "prefetch"
PREFETCHES = ("demand", "count")
PRIORITY_ORDER = "priority_order"
PRIORITY_SIGNS = {"amqp": 1, "redis": -1}
"""What the option `priority_order` may be. In AMQP the larger number goes first, with Redis the smaller one."""
CONFIRM = "confirm"
CONFIRMS = ("wait", "window")
CONFIRM_WINDOW = "confirm_window"
CONFIRM_WINDOW_DEFAULT = 1000
"""It fills the time of one fsync several times over, and is no more than a program may want to publish again."""
CONFIRM_WINDOW_MAX = 8192
"""As many commands as a session may have under way, by default."""
OWN_OPTIONS = (PREFETCH, PRIORITY_ORDER, CONFIRM, CONFIRM_WINDOW)
"""What only `broker_transport_options` takes, and no URL."""


def priority_sign(options: dict[str, Any]) -> int:
    """Returns what the application's priorities are multiplied with, so that the larger one goes first. Raises
    `ConfigError`."""
    order = options.get(PRIORITY_ORDER) or "amqp"
    if order not in PRIORITY_SIGNS:
        raise ConfigError(
            f"broker_transport_options: {PRIORITY_ORDER} is 'amqp' (the larger number first, the default) or 'redis' "
            f"(the smaller number first), not {order!r}"
        )
    return PRIORITY_SIGNS[order]


def holds_back_tasks(options: dict[str, Any]) -> bool:
    """Whether a worker hands its pool no more tasks than it can begin. Raises `ConfigError`."""
    prefetch = options.get(PREFETCH) or "demand"
    if prefetch not in PREFETCHES:
        raise ConfigError(
            f"broker_transport_options: {PREFETCH} is 'demand' (the default: tasks that have not begun can be "
            f"overtaken) or 'count' (they cannot), not {prefetch!r}"
        )
    return bool(prefetch == "demand")


def confirm_window(options: dict[str, Any]) -> int:
    """Returns how many messages may wait for their confirmation after their publish has returned; 0 if each publish
    waits. Raises `ConfigError`."""
    confirm = options.get(CONFIRM) or "wait"
    if confirm not in CONFIRMS:
        raise ConfigError(
            f"broker_transport_options: {CONFIRM} is 'wait' (the default: a publish returns when it is confirmed) or "
            f"'window' (it returns at once), not {confirm!r}"
        )
    limit = options.get(CONFIRM_WINDOW)
    if limit is not None and confirm != "window":
        raise ConfigError(
            f"broker_transport_options: {CONFIRM_WINDOW} has no effect without {CONFIRM}: 'window'. Set both, or none"
        )
    limit = CONFIRM_WINDOW_DEFAULT if limit is None else limit
    if type(limit) is not int or not 1 <= limit <= CONFIRM_WINDOW_MAX:
        raise ConfigError(
            f"broker_transport_options: {CONFIRM_WINDOW} is a number of messages from 1 to {CONFIRM_WINDOW_MAX}, not "
            f"{limit!r}"
        )
    return limit if confirm == "window" else 0


def broker_url(owner: Any, scheme: str) -> str:
    """The URL of a kombu connection: its host name, which holds a whole URL, its alternates, what `broker_use_ssl`
    says, and its transport options. `broker_use_ssl` alone is enough for TLS, as with other transports. Raises
    `ConfigError`."""
    if getattr(owner, "userid", None) or getattr(owner, "password", None):
        raise ConfigError(
            "disheap has no user names and passwords (broker_user, broker_password); leave them out, and use "
            "disheaps:// with a client certificate"
        )
    parts = [owner.hostname or "", *(part for part in owner.alt or () if part and part != owner.hostname)]
    if owner.ssl:
        parts = [part.replace("disheap://", "disheaps://", 1) for part in parts]
        scheme = "disheaps"
    first, *others = ";".join(_as_url(part, owner, scheme) for part in parts).split(";")
    named = dict(parse_qsl(first.partition("?")[2], keep_blank_values=True))
    given = {**_transport_options(owner.transport_options or {}), **_tls_options(owner.ssl)}
    if owner.ssl:
        _check_files({**given, **named})
    more = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in given.items() if key not in named)
    if more:
        first = f"{first}{'&' if '?' in first else '?'}{more}"
    return ";".join([first, *others])


def _as_url(part: str, owner: Any, scheme: str) -> str:
    """A bare host name (`Connection("broker1", transport="disheap")`) becomes a URL."""
    if "://" in part:
        return part
    port = f":{owner.port}" if part and owner.port and ":" not in part and "," not in part else ""
    return f"{scheme}://{part}{port}"


def _transport_options(options: dict[str, Any]) -> dict[str, Any]:
    known = (*urls.PARAMETERS, *urls.TLS_KEYS)
    taken = {}
    for key, value in options.items():
        if key in known or key.startswith(urls.PLUGIN_PREFIX):
            if value is not None:
                taken[key] = str(value).lower() if isinstance(value, bool) else value
        elif key not in KOMBU_OPTIONS and key not in OWN_OPTIONS:
            names = (*known, *OWN_OPTIONS)
            near = difflib.get_close_matches(key, names, n=1)
            guess = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"
            warnings.warn(f"broker_transport_options: {key!r} has no effect with disheap{guess}", stacklevel=2)
    return taken


# --- broker_use_ssl ---


def _tls_options(given: Any) -> dict[str, Any]:
    options = {}
    for key, value in given.items() if isinstance(given, dict) else ():
        name = key if key in TLS_FIXED else str(key).removeprefix("ssl_")
        if value is None:
            continue
        if name in TLS_NAMES:
            options[TLS_NAMES[name]] = value
        elif name == "cert_reqs":
            _check_is_required(key, value)
        elif name == "check_hostname":
            _check_is_on(key, value)
        elif name in TLS_FIXED:
            warnings.warn(f"broker_use_ssl: {key!r} has no effect with disheap, which speaks TLS 1.3", stacklevel=2)
        else:
            near = difflib.get_close_matches(name, (*TLS_NAMES, "cert_reqs", "check_hostname"), n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"broker_use_ssl: {key!r} is not known.{guess} Give {', '.join(TLS_FILES)}")
    return options


def _check_is_required(key: str, value: Any) -> None:
    """Names and numbers of Python's `ssl`, and the words that Redis takes."""
    text = str(getattr(value, "name", value)).lower().removeprefix("cert_")
    if text not in ("required", str(int(ssl.CERT_REQUIRED))):
        raise ConfigError(
            f"broker_use_ssl: {key} = {value!r} is not possible: with disheap both ends always prove who they are. "
            f"Leave {key} out, and name the authority of the nodes' certificates in ca_certs"
        )


def _check_is_on(key: str, value: Any) -> None:
    if not value:
        raise ConfigError(
            f"broker_use_ssl: {key} = {value!r} is not possible: the name in a node's certificate is always checked. "
            "Set server_hostname to the name in the certificate if that is not the host's"
        )


def _check_files(named: dict[str, Any]) -> None:
    missing = [name for name in TLS_FILES if not named.get(TLS_NAMES[name])]
    if missing:
        raise ConfigError(
            f"broker_use_ssl: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. With disheap both "
            'ends prove who they are. Example: broker_use_ssl = {"ca_certs": "ca.pem", "certfile": "me.pem", '
            '"keyfile": "me.key"}. cafile, certfile and keyfile in the URL do the same'
        )
