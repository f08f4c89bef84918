"""Certificates and keys in files, as a TLS context takes them. A file that cannot be used is a `ConfigError`.

The transport `tls` and the services with a port of their own use it. `where` is put in front of an error, such as
"[service.http] ". The errors name the settings `certfile`, `keyfile` and `cafile`.
"""

from __future__ import annotations

import ssl

from disheap.errors import ConfigError


def load_certificate(context: ssl.SSLContext, certfile: str, keyfile: str, where: str = "") -> None:
    """Loads this end's certificate and key. Without a `keyfile` the key is in `certfile`. Raises `ConfigError`."""

    def no_password() -> str:
        raise ConfigError(f"{where}keyfile is encrypted; a node has nobody to ask for its password. Decrypt it.")

    try:
        context.load_cert_chain(certfile, keyfile or None, password=no_password)
    except OSError as error:
        files = f"{certfile} with keyfile {keyfile or certfile}"
        raise ConfigError(f"{where}certfile = {files} cannot be used: {_reason(error)}.") from error


def load_authorities(context: ssl.SSLContext, cafile: str, where: str = "") -> None:
    """Loads the authorities that the other end's certificate must come from. Raises `ConfigError`."""
    try:
        context.load_verify_locations(cafile=cafile)
    except OSError as error:
        raise ConfigError(f"{where}cafile = {cafile} cannot be used: {_reason(error)}.") from error


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        mismatch = "MISMATCH" in str(error)
        return "the key does not belong to the certificate" if mismatch else "it is not PEM, or damaged"
    return (error.strerror or str(error)).lower()
