"""Certificates and keys in files, as a TLS context takes them. A file that cannot be used is a `ConfigError`.

The transport `tls` and the services with a port of their own use it. `where` is put in front of an error, such as
"[service.http] ". The errors name the settings `certfile`, `keyfile`, `shared_keyfile` and `cafile`.
"""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

from disheap.errors import ConfigError


def load_certificate(
    context: ssl.SSLContext, certfile: str, keyfile: str, where: str = "", *, shared_keyfile: bool
) -> None:
    """Loads this end's certificate and key. Without a `keyfile` the key is in `certfile`. Raises `ConfigError`, also
    for a key that others may read, unless `shared_keyfile` allows it."""

    def no_password() -> str:
        raise ConfigError(f"{where}keyfile is encrypted; a node has nobody to ask for its password. Decrypt it.")

    try:
        context.load_cert_chain(certfile, keyfile or None, password=no_password)
    except OSError as error:
        files = f"{certfile} with keyfile {keyfile or certfile}"
        raise ConfigError(f"{where}certfile = {files} cannot be used: {_reason(error)}.") from error
    if not shared_keyfile:
        _check_key_mode("keyfile" if keyfile else "certfile", Path(keyfile or certfile), where)


def load_authorities(context: ssl.SSLContext, cafile: str, where: str = "") -> None:
    """Loads the authorities that the other end's certificate must come from. Raises `ConfigError`."""
    try:
        context.load_verify_locations(cafile=cafile)
    except OSError as error:
        raise ConfigError(f"{where}cafile = {cafile} cannot be used: {_reason(error)}.") from error


def _check_key_mode(setting: str, path: Path, where: str) -> None:
    """Checks that only the owner may read the private key. If the owner is root, the group may read it too, so that a
    service can."""
    if os.name != "posix":
        return
    found = path.stat()
    allowed = 0o640 if found.st_uid == 0 and os.geteuid() != 0 else 0o600
    if mode := stat.S_IMODE(found.st_mode) & 0o077 & ~allowed:
        raise ConfigError(
            f"{where}{setting} = {path} has the mode {stat.S_IMODE(found.st_mode):04o}: others than its owner could "
            f"{'read' if mode & 0o044 else 'change'} it, and act as its holder. Run `chmod 600 {path}`. Where "
            "something else keeps them out, set shared_keyfile = true."
        )


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        mismatch = "MISMATCH" in str(error)
        return "the key does not belong to the certificate" if mismatch else "it is not PEM, or damaged"
    return (error.strerror or str(error)).lower()
