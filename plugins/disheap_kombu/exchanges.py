"""Exchanges and bindings: AMQP's methods of a channel. `publishing/header_routing.py` says what a headers exchange sees
of a message."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from amqp.exceptions import AMQPNotImplementedError, NotFound

from disheap.errors import CommandRefused
from disheap.protocol import broker
from disheap_kombu.channel_connection import ChannelConnection
from disheap_kombu.failures import translated
from disheap_kombu.queues import STANDARD_EXCHANGES, alternate_exchange


def encoded_arguments(arguments: Mapping[str, Any] | None) -> bytes:
    """The arguments of a binding. Raises 406 for an unknown `x-match`, and for what is nested."""
    try:
        return broker.encode_arguments(arguments)
    except CommandRefused as error:
        raise translated(error) from error


class ExchangeMethods:
    """AMQP's methods on exchanges and bindings. A part of `Channel`."""

    _made_exchanges: set[str]
    """The standard exchanges that this channel has created."""

    @property
    def _open_connection(self) -> ChannelConnection:
        raise NotImplementedError

    def exchange_declare(
        self,
        exchange: str = "",
        type: str = "direct",
        passive: bool = False,
        durable: bool = False,
        auto_delete: bool = True,
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """404 for a passive declaration of what is not there, 406 where it has another type."""
        if passive:
            self._ensure_standard_exchange(exchange)
            found = self._open_connection.query(broker.ListExchanges(exchange, 0, 1))
            if not any(name == exchange for name, _kind in found.exchanges):
                raise NotFound(f"no exchange {exchange!r}")
            self._open_connection.exchanges.learn(found)
            return
        if type not in broker.EXCHANGE_KINDS:
            raise AMQPNotImplementedError(
                f"exchange type {type!r} is not supported; use one of {', '.join(broker.EXCHANGE_KINDS)}"
            )
        alternate = alternate_exchange(exchange, arguments or {})
        self._open_connection.call(broker.CreateExchange(exchange, type, bool(auto_delete), alternate))
        self._open_connection.exchanges.note(exchange, type, alternate)

    def _ensure_standard_exchange(self, exchange: str) -> None:
        if exchange in STANDARD_EXCHANGES and exchange not in self._made_exchanges:
            self._open_connection.call(broker.CreateExchange(exchange, STANDARD_EXCHANGES[exchange]))
            self._open_connection.exchanges.note(exchange, STANDARD_EXCHANGES[exchange])
            self._made_exchanges.add(exchange)

    def exchange_delete(self, exchange: str = "", if_unused: bool = False, nowait: bool = False, **_: Any) -> None:
        """Deletes an exchange. Nothing happens if there is none."""
        self._open_connection.call(broker.DeleteExchange(exchange, bool(if_unused)))
        self._open_connection.exchanges.forget(exchange)

    def exchange_bind(self, *_: Any, **__: Any) -> None:
        """Raises `AMQPNotImplementedError`: there are no bindings between exchanges."""
        raise AMQPNotImplementedError("bindings between exchanges are not supported; bind the queue to both")

    exchange_unbind = exchange_bind

    def queue_bind(
        self,
        queue: str,
        exchange: str = "",
        routing_key: str = "",
        nowait: bool = False,
        arguments: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Binds a queue to an exchange. Arguments are for a headers exchange. With another one they have no effect, as
        in AMQP, and a warning says so."""
        if exchange:  # every queue is bound to the default exchange, by its name
            connection = self._open_connection
            self._ensure_standard_exchange(exchange)
            encoded = self._arguments(exchange, queue, arguments, warns=True)
            connection.call(broker.Bind(exchange, queue, routing_key or "", encoded))
            connection.note_declared(exchange)
            connection.note_bound(queue)

    def queue_unbind(
        self, queue: str, exchange: str, routing_key: str = "", arguments: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Removes the binding with this key and these arguments."""
        encoded = self._arguments(exchange, queue, arguments)
        self._open_connection.call(broker.Unbind(exchange, queue, routing_key or "", encoded))

    def _arguments(self, exchange: str, queue: str, arguments: dict[str, Any] | None, warns: bool = False) -> bytes:
        if not arguments:
            return b""
        if self._open_connection.exchanges.is_by_headers(exchange):
            return encoded_arguments(arguments)
        if warns:
            names = ", ".join(map(str, arguments))
            warnings.warn(
                f"binding of queue {queue!r} to exchange {exchange!r}: {names} has no effect with disheap, which reads "
                "the arguments of bindings to headers exchanges only",
                stacklevel=3,
            )
        return b""
