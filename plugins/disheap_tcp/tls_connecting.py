"""TLS on a connection that is being made without a loop. A module of its own, so that plain TCP does not load `ssl`."""

from __future__ import annotations

import ssl
from typing import Any

from disheap_tcp import trust
from disheap_tcp.address import Address
from disheap_tcp.connecting import Connecting
from disheap_tcp.link import Explain
from disheap_tcp.options import TcpSettings


class TlsConnecting(Connecting):
    """TCP first, then the handshake."""

    _explain: Explain = staticmethod(trust.explain)

    def __init__(self, settings: TcpSettings, remote: Address, context: ssl.SSLContext, server_name: str) -> None:
        self._context = context
        self._server_name = server_name
        self._tls: ssl.SSLSocket | None = None
        super().__init__(settings, remote)

    def fileno(self) -> int:
        """The descriptor to wait for, or -1 if there is none."""
        return self._tls.fileno() if self._tls is not None else super().fileno()

    def advance(self) -> Any:
        """Goes on with the connection, then with the handshake. Returns the socket when both are done."""
        try:
            return self._shake_hands()
        except OSError as error:
            raise self._failure(error) from error

    def explain(self, error: OSError | None) -> str:
        """In TLS 1.3 a client is through before the server has judged its certificate."""
        return trust.explain_lost(error) if error is not None else trust.SILENCE

    def close(self) -> None:
        """Gives the attempt up."""
        if self._tls is not None:
            self._tls.close()
        super().close()

    def _shake_hands(self) -> ssl.SSLSocket | None:
        if self._tls is None:
            plain = super().advance()
            if plain is None:
                return None
            self._socket = plain  # to be closed, should this fail
            self._tls = self._context.wrap_socket(
                plain, server_hostname=self._server_name, do_handshake_on_connect=False
            )
            self._socket = None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.wants_write = False
            return None
        except ssl.SSLWantWriteError:
            self.wants_write = True
            return None
        connected, self._tls = self._tls, None
        return connected
