"""SIGHUP: what a running node reads again. It never ends the node.

The log's level and format change at once, and new connections use the certificates that the files hold now. Every other
setting is read at the start alone: one that has changed is named in the log. What cannot be read leaves everything as
it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from disheap.config.node_config import NodeConfig
from disheap.errors import ConfigError
from disheap.logs import get_logger
from disheap.runtime.member import Member

log = get_logger(__name__)

LIVE = ("log_level", "log_json")
"""Settings that change while the node runs."""


class Reloading:
    """`running` are the settings as they were read at the start. `read` gives them as they are now, and `set_up_log`
    makes the log follow them."""

    def __init__(
        self, running: NodeConfig, read: Callable[[], NodeConfig], set_up_log: Callable[[NodeConfig], None]
    ) -> None:
        self._running, self._read, self._set_up_log = running, read, set_up_log

    def reload(self, node: Member) -> None:
        """Read settings and certificates again, and log what changed. Raises nothing: what is wrong is logged."""
        read = self._reload_settings()
        try:
            node.reload()
        except ConfigError as error:
            log.error("the certificates cannot be read again; those in use stay", reason=str(error))
        else:
            if read:
                log.info("settings and certificates were read again")
            else:
                log.info("the certificates were read again")

    def _reload_settings(self) -> bool:
        """Whether they could be read."""
        try:
            fresh = self._read()
        except (ConfigError, OSError) as error:
            log.error("the settings cannot be read again; those in use stay", reason=str(error))
            return False
        self._set_up_log(fresh)
        changed = [name for name in _changes(_tree(self._running), _tree(fresh)) if name not in LIVE]
        if changed:
            log.warning("these settings have changed and need a restart", settings=changed)
        return True


def _tree(config: NodeConfig) -> dict[str, Any]:
    tree: dict[str, Any] = msgspec.to_builtins(config)
    tables = tree.pop("plugins")
    del tree["source"]
    return {**tree, **{f"{kind} plugin": table for kind, table in tables.items()}}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> list[str]:
    """The dotted names of what differs."""
    names = []
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names += _changes(old, new, f"{path}{key}.")
        elif old != new:
            names.append(f"{path}{key}")
    return names
