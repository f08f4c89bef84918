"""The data directory of one replica: its storage, and the thread that reads and writes it.

Owns which storage is open. A repair closes it, and opens another one on the same thread. `recovery` reads what it
holds.
"""

from __future__ import annotations

from collections.abc import Callable

from disheap.interfaces import Identity, Storage, StorageUsage
from disheap.kernel.types import SnapshotMeta
from disheap.runtime.disk.thread import Disk, FailStopDisk, close_patiently, run_on
from disheap.runtime.replica.recovery import Found, recover
from disheap.runtime.state.sessions import Sessions


class DataDirectory:
    """`open` it, also again, and `close` it for good. `failed` is told an error of the disk."""

    def __init__(
        self, group: int, make_storage: Callable[[], Storage], disk: Disk, failed: Callable[[BaseException], None]
    ) -> None:
        self._group = group
        self._make_storage = make_storage
        self._failed = failed
        self._disk: Disk | None = FailStopDisk(disk, failed)
        self._storage: Storage | None = None

    async def open(
        self,
        identity: Identity,
        first_state: SnapshotMeta,
        fresh_sessions: Callable[[], Sessions],
        *,
        tail_bytes: int,
        chunk_bytes: int,
        follow: bool,
    ) -> Found:
        """Open the storage, and recover what it holds. An earlier one was closed. See `recovery.recover`."""
        storage = self._storage = self._make_storage()
        return await run_on(
            self.disk(),
            lambda: recover(
                storage,
                identity,
                first_state,
                fresh_sessions,
                tail_bytes=tail_bytes,
                chunk_bytes=chunk_bytes,
                follow=follow,
                group=self._group,
            ),
        )

    def storage(self) -> Storage:
        """Returns the open storage. There is none before `open` and after `close`."""
        assert self._storage is not None, "the storage is closed"
        return self._storage

    def disk(self) -> Disk:
        """Returns the thread that reads and writes the directory. There is none after `close`."""
        assert self._disk is not None, "the disk is closed"
        return self._disk

    @property
    def is_open(self) -> bool:
        """Whether the storage is open, and its disk can be asked."""
        return self._storage is not None and self._disk is not None

    async def usage(self) -> StorageUsage:
        """Returns the sizes of the log and the snapshots. Asks the disk. Raises `StorageError`."""
        return await run_on(self.disk(), self.storage().usage)

    async def close(self) -> None:
        """Waits for the disk, but not for ever; may be called twice."""
        disk, storage = self._disk, self._storage
        self._disk = self._storage = None
        if disk is not None:
            await close_patiently(disk, storage, self._failed)
