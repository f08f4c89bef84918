"""Makes the data directory of a node of a new cluster, with a state that the cluster begins with.

Everything is written below `TEMPORARY`, and gets its place by one rename when all groups are durable. So a directory is
either empty or whole. A cluster that began with half of its groups would have lost the others, and nobody would notice.
The new cluster has another id than the one that the state comes from. So a member of that one can never join it.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from disheap.config.node_config import NodeConfig
from disheap.errors import ConfigError, StorageError, WrongDirectory
from disheap.interfaces import Identity, KnownPeers, PeerStore, Storage
from disheap.kernel.membership import voters_of
from disheap.kernel.types import NOBODY, HardState, Index, NodeId, SnapshotMeta, Term
from disheap.runtime.membership.directory import first_membership
from disheap.runtime.membership.origin import DRAWN_ID_BYTES
from disheap.runtime.offline.states import OfflineParts
from disheap.runtime.state.sessions import Sessions

TEMPORARY = "unfinished.tmp"
GROUPS = "groups"


def new_cluster_id(config: NodeConfig, source: str, generator: random.Random) -> str:
    """The id of a new cluster that begins with the state of `source`. The members of a static list make the directory
    each by itself, and derive the same id. It is another one than the list gives to an empty directory. So a member
    that was not restored is refused, and does not elect others that have nothing. All other ids are drawn."""
    if not config.members:
        return generator.getrandbits(8 * DRAWN_ID_BYTES).to_bytes(DRAWN_ID_BYTES, "big").hex()
    return blake2b(f"{config.cluster_id()} {source}".encode(), digest_size=DRAWN_ID_BYTES).hexdigest()


def log_time_of(founding: Founding, time_ms: int, confirm: Callable[[int], bool]) -> int | None:
    """The time at which the log of the new cluster begins, for a state of `time_ms`. A node alone would not believe a
    clock that is more than `max_downtime_ms` ahead of its log, and would not lead. So its log begins at its clock,
    after `confirm(age_ms)` has said that the clock is right. Returns None if it is not."""
    age_ms = founding.wall_ms() - time_ms
    if not founding.is_alone or not time_ms or age_ms <= founding.max_downtime_ms:
        return time_ms
    return time_ms + age_ms if confirm(age_ms) else None


class Founding:
    """A context manager: `begin`, `add` each group in order, then `finish`. Without `finish` nothing is left."""

    def __init__(self, parts: OfflineParts, data_dir: Path) -> None:
        config = parts.config
        self._parts = parts
        self._data_dir = data_dir
        self._temporary = data_dir / TEMPORARY
        self._members = config.member_list()
        self._own = NodeId(self._members.index(config.own_member()) + 1)
        self.cluster_id = ""  # before `begin`
        self.wall_ms = parts.clock.wall_ms
        self.max_downtime_ms = config.limits.max_downtime_ms
        self._groups = 0
        self._is_made = False  # the data directory, by this object

    @property
    def is_alone(self) -> bool:
        """Whether the new cluster has one member."""
        return len(self._members) == 1

    def __enter__(self) -> Founding:
        """Raises `WrongDirectory` if the directory holds data."""
        check_empty(self._data_dir)
        try:
            self._is_made = not self._data_dir.exists()
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._temporary.mkdir(mode=0o700)
        except FileExistsError:
            raise WrongDirectory(
                f"{self._temporary} is there: another restore is running, or one was broken off. If none is running, "
                "remove that directory and try again"
            ) from None
        except OSError as error:
            raise WrongDirectory(
                f"{self._data_dir} cannot be made ({error.strerror}); name another directory"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)
        if self._is_made:
            with suppress(OSError):
                self._data_dir.rmdir()  # only if there is nothing in it

    def begin(self, source: str) -> None:
        """`source` names the state, and is the same on all members that begin with it."""
        self.cluster_id = new_cluster_id(self._parts.config, source, self._parts.random)

    def add(self, group: int, index: int, term: int, time_ms: int, state: Sessions) -> None:
        """Write the group's directory. Its log begins behind `index`. Raises `StorageError`."""
        storage = self._parts.storage(self._temporary, group)
        if not storage.durable:
            raise ConfigError(
                f"storage {self._parts.config.storage!r} keeps nothing beyond its process; set another one, like file"
            )
        identity = Identity(self.cluster_id, self._own, self._parts.config.name, self._parts.random.getrandbits(63) | 1)
        try:
            if not storage.open(identity, 0, alone=True).fresh:
                raise WrongDirectory(f"the storage of group {group} holds data already; nothing was changed")
            meta = SnapshotMeta(Index(index), Term(term), time_ms, first_membership(self._members))
            self._write(storage, meta, state)
        finally:
            storage.close()
        self._groups += 1

    def _write(self, storage: Storage, meta: SnapshotMeta, state: Sessions) -> None:
        storage.save_hard_state(HardState(Term(meta.term), NOBODY))
        writer = storage.begin_snapshot(meta, replaces_log=True)
        for piece in state.snapshot():
            writer.write(piece)
        writer.commit()
        if isinstance(storage, PeerStore):
            storage.save_known_peers(KnownPeers(True, (), tuple(voters_of(meta.membership))))

    def finish(self) -> None:
        """All groups are there: give the directory its place, durably."""
        assert self._groups == self._parts.config.groups, "every group has a state"
        try:
            (self._temporary / GROUPS).rename(self._data_dir / GROUPS)
            _sync(self._data_dir)
        except OSError as error:
            raise StorageError(f"{self._data_dir}: {error.strerror}; nothing was changed") from error


def check_empty(data_dir: Path) -> None:
    """Raises `WrongDirectory` if the directory holds data of a node."""
    groups = data_dir / GROUPS
    if groups.exists() and any(groups.iterdir()):
        raise WrongDirectory(
            f"{data_dir} holds the data of a node, and they are not overwritten. Name an empty directory (--data), or "
            "move that one away; nothing was changed"
        )


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
