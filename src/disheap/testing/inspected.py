"""A member whose first group tests can look into. The product's `Member` names each group by its number."""

from __future__ import annotations

from disheap.interfaces import Storage, StorageUsage
from disheap.runtime.clients.server import Server
from disheap.runtime.disk.thread import Disk
from disheap.runtime.maintenance import Maintenance
from disheap.runtime.member import Member
from disheap.runtime.replica.group import Group
from disheap.runtime.replica.lifecycle import Lifecycle
from disheap.runtime.replica.recovery import Found


class InspectedMember(Member):
    """Each property and method is that of the node's part of group 0."""

    @property
    def group(self) -> Group:
        """There is one as soon as the storage was opened."""
        return self.replicas[0].group

    @property
    def lifecycle(self) -> Lifecycle:
        """Before the node starts there is none yet, so a new one is returned: it is `opening`."""
        return self.replicas[0].lifecycle if self.replicas else Lifecycle()

    @property
    def maintenance(self) -> Maintenance:
        """The background work."""
        return self.replicas[0].maintenance

    @property
    def clients(self) -> Server:
        """Who serves the clients."""
        return self.replicas[0].server

    @property
    def incarnation(self) -> int:
        """The incarnation of the directory."""
        return self.replicas[0].incarnation

    def storage(self) -> Storage:
        """The storage that is open."""
        return self.replicas[0].storage()

    def disk(self) -> Disk:
        """The thread that the storage runs on."""
        return self.replicas[0].disk()

    async def storage_usage(self) -> StorageUsage:
        """How much the storage takes."""
        return await self.replicas[0].directory.usage()

    def repair(self, reason: str) -> None:
        """The log is read anew."""
        self.replicas[0].repair(reason)

    def quarantine(self, reason: str) -> None:
        """The state is wrong."""
        self.replicas[0].quarantine(reason)

    async def recover_again(self, follow: bool) -> Found:
        """The storage is closed and opened anew."""
        return await self.replicas[0].recover_again(follow)
