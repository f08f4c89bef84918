"""Where settings come from: a TOML file, the environment, flags; merged key by key, the later source winning.

Owns the spelling of names in each source. Refuses to know which keys there are: `node_config` says that. A value out of
the environment or from a flag is a `Text` that remembers where it stood.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from disheap.errors import ConfigError
from disheap.interfaces import CHOSEN_KINDS
from disheap.plugins.settings import Text, origin_of

USE = "use"
"""The key that chooses a plugin inside its kind's table; `storage = "file"` is short for it."""

Given = tuple[tuple[str, ...], Any]
"""A key's path and its value."""

_PREFIX = "DISHEAP_"
_SEED_NAMES = {
    "NODE_ID": "name",
    "RAFT_BIND": "peer_listen",
    "RAFT_ADVERTISE": "peer_advertise",
    "BOOTSTRAP": "bootstrap",
    "RAFT_JOIN_ADDRESSES": "join_addresses",
}
_NOT_SETTINGS = frozenset({"DISHEAP_CONFIG", "DISHEAP_URL", "DISHEAP_REQUIRE_ALL"})  # read by the CLI and the tests
_OF_OTHERS = re.compile(r"DISHEAP_((\w+_)?(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)|EXAMPLE_\w+)")
"""What Kubernetes and container links put into the environment beside a service that is called disheap, and what the
example applications read."""


def collect(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> dict[str, Any]:
    """One tree of tables. A plugin's choice stands as {kind: {"use": name}} whichever way it was spelled."""
    tree: dict[str, Any] = {}
    for path, value in [*_from_file(file), *_from_environment(environ), *_from_flags(flags)]:
        _put(tree, (*path, USE) if len(path) == 1 and path[0] in CHOSEN_KINDS else path, value, file)
    return tree


def _from_file(file: Path | None) -> list[Given]:
    if file is None:
        return []
    try:
        return list(_leaves((), tomllib.loads(file.read_text(encoding="utf-8"))))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8 text.") from None
    except tomllib.TOMLDecodeError as error:
        hint = ' (beside a table [storage.file], write [storage] use = "file")' if "Cannot" in str(error) else ""
        raise ConfigError(f"{file}: is not TOML: {error}{hint}.") from None


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[Given]:
    if not isinstance(value, dict):
        yield path, value
        return
    for key, inner in value.items():
        yield from _leaves((*path, key), inner)


def _from_environment(environ: Mapping[str, str]) -> list[Given]:
    """The names without a prefix first, so that `DISHEAP_NAME` wins over `NODE_ID`."""
    names: dict[str, tuple[str, ...]] = {name: (field,) for name, field in _SEED_NAMES.items()}
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in _NOT_SETTINGS and not _OF_OTHERS.fullmatch(name):
            names[name] = tuple(name.removeprefix(_PREFIX).lower().split("__"))
    return [(path, Text(environ[name], name)) for name, path in names.items() if environ.get(name)]


def _from_flags(flags: Mapping[str, Any]) -> list[Given]:
    return [(tuple(name.split(".")), _flag(name, value)) for name, value in flags.items() if value is not None]


def _flag(name: str, value: Any) -> Any:
    if isinstance(value, Text) or not isinstance(value, str | int | float):
        return value
    words = str(value).lower() if isinstance(value, bool) else str(value)
    return Text(words, f"--set {name}" if "." in name else "--" + name.replace("_", "-"))


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any, file: Path | None) -> None:
    *parents, key = path
    for depth, parent in enumerate(parents):
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{_where(value, file)}: {'.'.join(path[: depth + 1])} is a value, and not a table.")
    if isinstance(tree.get(key), dict):
        raise ConfigError(f"{_where(value, file)}: {'.'.join(path)} is a table, and cannot be {value!r}.")
    tree[key] = value


def _where(value: Any, file: Path | None) -> str:
    return origin_of(value, str(file))
