"""The secret that members of one cluster share, from a file or the environment.

With it nodes prove to each other that they belong together (`protocol.proofs`). Two may be given while one replaces the
other: the first proves, both are accepted. It is never a flag, because every user of a machine sees the flags of its
processes.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from disheap.errors import ConfigError

CHARACTERS_MIN = 32
"""128 bits where each character stands for four, as in a hexadecimal number: nobody guesses that from a proof."""
CHARACTERS_MAX = 1024
SECRETS_MAX = 2
"""The old one and the new one."""
SECRET_BYTES = 32
FORBIDDEN = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO
"""A group may read: so a service's own group reads what root owns."""
MAKE_ONE = "`disheap secret new FILE` makes one; copy the file to every node and set cluster_secret_file to it"


def new_secret() -> str:
    """64 hexadecimal digits from the system's generator."""
    return secrets.token_hex(SECRET_BYTES)


def write_new(path: Path) -> None:
    """A new secret into a new file that only its owner reads. Raises `ConfigError`."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path}: is there already, and is not overwritten. Name a new file.") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}.") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{new_secret()}\n")


def read_secrets(text: str, file: str) -> tuple[bytes, ...]:
    """What was given as `text` (DISHEAP_CLUSTER_SECRET) or in `file` (cluster_secret_file), at most one of them; empty
    where neither was. Secrets stand apart by spaces or lines. Raises `ConfigError`, which repeats no secret."""
    if text and file:
        raise ConfigError("cluster_secret_file and DISHEAP_CLUSTER_SECRET are both set. Keep one of them.")
    if file:
        return _checked(_read(Path(file)), file)
    return _checked(text, "DISHEAP_CLUSTER_SECRET") if text else ()


def _read(path: Path) -> str:
    try:
        with path.open(encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & FORBIDDEN:
                raise ConfigError(
                    f"cluster_secret_file {path}: others may read or change it (mode {stat.S_IMODE(mode):04o}). "
                    f"Run `chmod 600 {path}`; if others have read it, make a new one."
                )
            return file.read(SECRETS_MAX * (CHARACTERS_MAX + 2))
    except OSError as error:
        raise ConfigError(f"cluster_secret_file {path}: cannot be read: {error.strerror}. {MAKE_ONE}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"cluster_secret_file {path}: holds something else than ASCII text. {MAKE_ONE}.") from None


def _checked(text: str, origin: str) -> tuple[bytes, ...]:
    words = text.split()
    if not 1 <= len(words) <= SECRETS_MAX:
        raise ConfigError(
            f"{origin}: holds {len(words)} secrets; one, or two while one replaces the other. {MAKE_ONE}."
        )
    for word in words:
        if not CHARACTERS_MIN <= len(word) <= CHARACTERS_MAX or not word.isascii():
            raise ConfigError(
                f"{origin}: a secret of {len(word)} characters; it has {CHARACTERS_MIN} to {CHARACTERS_MAX}, all of "
                f"them ASCII. {MAKE_ONE}."
            )
    return tuple(word.encode() for word in words)
