"""Which headers of a message take part in routing, and for which exchanges.

A message for a headers exchange carries its headers beside the payload as well, where the broker reads them. Others do
not: it would cost them time and memory. So a connection remembers the kind of each exchange that it declared, and asks
the broker once for another. Only flat values take part in routing: text, numbers, true and false, bytes. Celery's
headers have lists, maps and None among them, which the message keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from amqp.exceptions import NotFound

from disheap.errors import CommandRefused
from disheap.protocol import broker
from disheap_kombu.failures import translated

KINDS_MAX = 10_000
"""Exchanges whose kind a connection remembers, some 1 MB. The oldest is forgotten, and asked for when it is used."""
ALTERNATES_MAX = 5
"""As many exchanges as a publish may try, one after the other."""
FLAT = frozenset((str, int, float, bool, bytes))


class ExchangeKinds:
    """The kinds of exchanges and their alternates, by name. `ask` sends a query."""

    def __init__(self, ask: Callable[[broker.ListExchanges], broker.ExchangeInfos]) -> None:
        self._ask = ask
        self._known: dict[str, tuple[str, str]] = {}

    def note(self, exchange: str, kind: str, alternate: str = "") -> None:
        """The exchange was declared."""
        self._known[exchange] = (kind, alternate)
        if len(self._known) > KINDS_MAX:
            del self._known[next(iter(self._known))]

    def learn(self, infos: broker.ExchangeInfos) -> None:
        """The broker has told of these exchanges."""
        for name, kind in infos.exchanges:
            self.note(name, kind, infos.alternates.get(name, ""))

    def forget(self, exchange: str) -> None:
        """The exchange may be gone."""
        self._known.pop(exchange, None)

    def is_by_headers(self, exchange: str) -> bool:
        """Whether the exchange routes by headers, not counting its alternates. True as well if it is not there: then
        the broker refuses what follows."""
        return self._find(exchange)[0] in ("headers", "")

    def routing_headers(self, exchange: str, headers: Mapping[str, Any]) -> bytes:
        """The encoded headers by which the exchange, or one of its alternates, routes. No bytes if none of them looks
        at headers. Raises 406 for too many."""
        for _ in range(ALTERNATES_MAX):
            kind, exchange = self._find(exchange)
            if kind == "headers":
                return flat_headers(headers)
            if not exchange:
                break
        return b""

    def _find(self, exchange: str) -> tuple[str, str]:
        """The kind and the alternate. Twice "" if there is no such exchange: the publish says so."""
        found = self._known.get(exchange)
        if found is None:
            try:
                infos = self._ask(broker.ListExchanges(exchange, 0, 1))
            except NotFound:
                return "", ""
            self.learn(infos)
            found = self._known.get(exchange, ("", ""))
        return found


def flat_headers(headers: Mapping[str, Any]) -> bytes:
    """The headers that take part in routing, encoded. Raises 406 if they are too many or too long."""
    flat = {
        name: value
        for name, value in headers.items()
        if type(value) in FLAT and 1 <= len(name) <= broker.NAME_CHARACTERS
    }
    try:
        return broker.encode_headers(flat)
    except CommandRefused as error:
        raise translated(error) from error
