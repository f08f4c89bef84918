"""TLS of the port: the files, and how they are read again. Raises `ConfigError` for files that cannot be used."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from disheap.certificates import load_authorities, load_certificate
from disheap.errors import ConfigError
from disheap_grpc.settings import GrpcSettings

SECTION = "[service.grpc] "


class Credentials:
    """The credentials of a service, from its settings."""

    def __init__(self, settings: GrpcSettings) -> None:
        """Raises `ConfigError`."""
        self._settings = settings
        self._changed: Any = None  # a configuration that the next handshake takes
        self.is_secure = bool(settings.certfile)
        self.needs_client = bool(settings.cafile)
        if not self.is_secure and (settings.keyfile or settings.cafile):
            raise ConfigError(
                "[service.grpc] has a keyfile or a cafile and no certfile. Set certfile for TLS, or none."
            )
        if self.is_secure:
            self._check()

    def reload(self) -> None:
        """Connections made from now on use the files as they are now. Raises `ConfigError`, and nothing changes."""
        if self.is_secure:
            self._check()
            self._changed = self.read()

    def fetch(self) -> Any:
        """Called in a thread of gRPC for each handshake. None: as before."""
        changed, self._changed = self._changed, None
        return changed

    def read(self) -> Any:
        """The files as gRPC takes them."""
        import grpc  # the node itself loads no gRPC

        settings = self._settings
        chain, key = Path(settings.certfile).read_bytes(), Path(settings.keyfile or settings.certfile).read_bytes()
        authorities = Path(settings.cafile).read_bytes() if settings.cafile else None
        return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)

    def _check(self) -> None:
        """gRPC says only that a handshake failed."""
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_certificate(context, settings.certfile, settings.keyfile, SECTION, shared_keyfile=settings.shared_keyfile)
        if settings.cafile:
            load_authorities(context, settings.cafile, SECTION)


def server_credentials(credentials: Credentials) -> Any:
    """For a secure port."""
    import grpc

    return grpc.dynamic_ssl_server_credentials(credentials.read(), credentials.fetch, credentials.needs_client)
