"""The TLS context of the listeners. Raises `ConfigError` for files that cannot be used."""

from __future__ import annotations

import ssl

from disheap.certificates import load_authorities, load_certificate
from disheap.errors import ConfigError
from disheap_http.settings import HttpSettings

SECTION = "[service.http] "


def server_context(settings: HttpSettings) -> ssl.SSLContext | None:
    """Returns None without a certificate. With a `cafile` every client has to prove itself."""
    if not settings.certfile:
        if settings.keyfile or settings.cafile:
            raise ConfigError(
                "[service.http] has a keyfile or a cafile and no certfile. Set certfile for TLS, or none."
            )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, settings)
    return context


def reload_context(context: ssl.SSLContext, settings: HttpSettings) -> None:
    """Connections made from now on use the files as they are now. A file that cannot be used changes nothing."""
    server_context(settings)
    _load(context, settings)


def _load(context: ssl.SSLContext, settings: HttpSettings) -> None:
    load_certificate(context, settings.certfile, settings.keyfile, SECTION, shared_keyfile=settings.shared_keyfile)
    if settings.cafile:
        load_authorities(context, settings.cafile, SECTION)
        context.verify_mode = ssl.CERT_REQUIRED
