"""The low-water mark: what is refused while disks are short of room, and what goes on (storage-rules 9)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.support.nodes import FAST, Cluster
from tests.support.wire import WireClient, wait_until

from disheap.errors import DiskFull, InvalidArgument, RequestError, StorageFull
from disheap.interfaces import Identity, Recovered, StorageUsage
from disheap.kernel.types import Member, Membership, NodeId
from disheap.protocol.frames import Fault, Flags, Status
from disheap.protocol.gossip import GroupReport
from disheap.runtime.disk.free_space import CHECK_S, SNAPSHOT_EVERY_S, TRANSFER_EVERY_S, DiskSpace
from disheap.testing.inspected import InspectedMember as Node
from disheap_filelog.storage import FileStorage

MARK = 1000


def usage(free_bytes: int | None) -> StorageUsage:
    return StorageUsage(0, 0, 0, free_bytes)


class Host:
    """A node of three, as the watch sees it."""

    def __init__(self, leads: bool = True) -> None:
        self.name = "n1"
        self.number = 0
        self.now = 0.0
        self.looks = 0
        self.told: list[bool] = []
        self.refusal: RequestError | None = None
        self.transfers: list[int] = []
        self.connected = {2, 3}
        self.silent: set[int] = set()
        self.is_running = True
        self.made_room: list[int] = []
        self.snapshotter = SimpleNamespace(take_to_free_space=self.made_room.append, bytes_applied=0)
        self.takes_transient = True
        self.leads = leads
        self.error: Exception | None = None
        self.membership = Membership(tuple(Member(NodeId(number), True, b"") for number in (1, 2, 3)))
        self.group: Any = self
        self.raft = self
        self.room = DiskSpace(self, NodeId(1), MARK, self)

    def monotonic(self) -> float:
        return self.now

    def disk(self) -> Any:
        return self

    def storage(self) -> Any:
        return self

    def submit(self, work: object, done: object) -> None:
        self.looks += 1

    def send_gossip(self) -> None:
        self.told.append(self.room.is_short)

    def refuse(self, kind: type[RequestError], reason: RequestError | None, takes_transient: bool) -> None:
        assert kind is DiskFull
        self.refusal, self.takes_transient = reason, takes_transient

    def is_connected(self, node: NodeId) -> bool:
        return node in self.connected

    def member_name(self, node: NodeId) -> str:
        return f"n{node}"

    def transfer(self, target: NodeId) -> None:
        if self.error:
            raise self.error
        self.transfers.append(target)

    def peers(self) -> list[Any]:
        return [SimpleNamespace(id=node, recently_active=node not in self.silent) for node in (2, 3)]

    def others_short(self, short: Iterable[int]) -> None:
        for node in (2, 3):
            self.room.heard(NodeId(node), GroupReport(0, node in set(short), 10))


class Allocating(Host):
    """Its storage has the power `Preallocating`, and its disk works at once."""

    def __init__(self) -> None:
        super().__init__()
        self.free_bytes = 2 * MARK
        self.calls: list[str] = []

    def preallocate(self) -> None:
        self.calls.append("preallocate")

    def usage(self) -> StorageUsage:
        self.calls.append("usage")
        return usage(self.free_bytes)

    def submit(self, work: Any, done: Any) -> None:
        done(work(), None)


def test_space_is_allocated_ahead_unless_the_disk_is_short_of_it() -> None:
    host = Allocating()
    host.room.check_usage()
    host.free_bytes = MARK // 2
    host.room.check_usage()
    assert host.calls == ["preallocate", "usage"] * 2
    host.room.check_usage()
    assert host.calls == [*["preallocate", "usage"] * 2, "usage"]
    host.free_bytes = 2 * MARK
    host.room.check_usage()
    host.room.check_usage()
    assert host.calls[-3:] == ["usage", "preallocate", "usage"]


def test_the_disk_is_looked_at_once_in_a_while() -> None:
    host = Host()
    for _ in range(10):
        host.room.tick()
    assert host.looks == 1
    host.now += CHECK_S
    host.room.tick()
    assert host.looks == 2


def test_the_disk_is_looked_at_again_when_an_eighth_of_the_mark_was_written() -> None:
    host = Host()
    host.room.tick()
    for written, looks in ((MARK // 8, 1), (MARK // 8 + 1, 2), (MARK // 4, 2), (MARK, 3)):
        host.snapshotter.bytes_applied = written
        host.room.tick()
        assert host.looks == looks


def test_below_the_mark_a_leader_refuses_says_why_and_tells_the_others() -> None:
    host = Host()
    host.room.seen(usage(MARK))
    assert host.refusal is None
    host.room.seen(usage(MARK - 1))
    assert host.refusal is not None
    for words in ("limits.min_free_bytes", "disk of n1", "consumed or removed"):
        assert words in str(host.refusal)
    assert host.told == [True]
    assert host.room.status() == {"free_bytes": MARK - 1, "is_short": True, "refuses": str(host.refusal)}


def test_a_little_more_than_the_mark_is_needed_before_commands_are_taken_again() -> None:
    host = Host()
    host.room.seen(usage(MARK - 1))
    host.room.seen(usage(MARK + 10))
    assert host.refusal is not None
    host.room.seen(usage(MARK + MARK // 8))
    assert host.refusal is None


def test_a_mark_of_nothing_and_a_storage_without_a_disk_refuse_nothing() -> None:
    host = Host()
    host.room.seen(usage(None))
    assert host.refusal is None
    host.room = DiskSpace(host, NodeId(1), 0, host)
    host.room.seen(usage(0))
    assert host.refusal is None


@pytest.mark.parametrize(("short", "refuses"), [((), False), ((2,), False), ((2, 3), True)])
def test_a_leader_with_room_refuses_when_those_with_room_are_no_majority(short: tuple[int, ...], refuses: bool) -> None:
    host = Host()
    host.room.seen(usage(MARK * 9))
    host.others_short(short)
    assert (host.refusal is not None) == refuses
    if refuses:
        assert "n2, n3" in str(host.refusal)
        host.others_short([3])
        assert host.refusal is None


def test_a_leader_that_is_short_hands_over_to_one_that_is_connected_and_is_not() -> None:
    host = Host()
    host.others_short([2])
    host.room.seen(usage(0))
    assert host.transfers == [], "a majority would be short all the same"
    host.others_short([])
    assert host.transfers == [2]
    host.room.seen(usage(0))
    assert host.transfers == [2], "not again at once"
    host.connected = {3}
    host.now += TRANSFER_EVERY_S
    host.room.seen(usage(0))
    assert host.transfers == [2, 3]


def test_a_node_that_does_not_take_leadership_is_not_the_only_one_asked() -> None:
    """It may be in quarantine, in repair or ambiguous: its link is up all the same."""
    host = Host()
    for _ in range(3):
        host.room.seen(usage(0))
        host.now += TRANSFER_EVERY_S
    assert host.transfers == [2, 3, 2]
    silent = Host()
    silent.silent = {2}
    for _ in range(3):
        silent.room.seen(usage(0))
        silent.now += TRANSFER_EVERY_S
    assert silent.transfers == [3, 3, 3]


def test_a_node_that_is_short_makes_room_by_a_snapshot_of_a_smaller_state() -> None:
    host = Host()
    host.room = DiskSpace(host, NodeId(1), 128 << 20, host)
    host.room.seen(StorageUsage(60 << 20, 0, 60 << 20, 200 << 20))
    assert host.made_room == [], "there is room"
    host.room.seen(StorageUsage(60 << 20, 0, 60 << 20, 100 << 20))
    assert host.made_room == [20 << 20]
    host.room.seen(StorageUsage(60 << 20, 0, 60 << 20, 100 << 20))
    assert host.made_room == [20 << 20], "not again at once"
    host.now += SNAPSHOT_EVERY_S
    host.room.seen(StorageUsage(1 << 20, 30 << 20, 0, 10 << 20))
    assert host.made_room == [20 << 20, 10 << 18], "below the reserve no more than a quarter of what is free is written"
    host.now += SNAPSHOT_EVERY_S
    host.room.seen(StorageUsage(1 << 20, 600 << 10, 0, 100 << 20))
    assert len(host.made_room) == 2, "there is nothing to gain"
    host.is_running = False
    host.room.seen(StorageUsage(60 << 20, 0, 60 << 20, 100 << 20))
    assert len(host.made_room) == 2, "what a node in repair holds is not whole"


def test_transient_commands_pass_until_the_reserve_is_reached() -> None:
    host = Host()
    host.room.seen(usage(MARK - 1))
    assert host.refusal is not None and host.takes_transient
    host.room.seen(usage(MARK // 2 - 1))
    assert not host.takes_transient
    host.room.seen(usage(MARK * 9))
    assert host.refusal is None and host.takes_transient
    host.room.heard(NodeId(2), GroupReport(0, True, 10))
    host.room.heard(NodeId(3), GroupReport(0, True, MARK - 1))
    assert host.refusal is not None and host.takes_transient
    host.room.heard(NodeId(3), GroupReport(0, True, 10))
    assert not host.takes_transient


def test_attempts_to_make_room_that_come_to_nothing_grow_rare() -> None:
    host = Host()
    host.room = DiskSpace(host, NodeId(1), 128 << 20, host)
    times = []
    for second in range(1000):
        host.now = float(second)
        before = len(host.made_room)
        host.room.seen(StorageUsage(60 << 20, 0, 60 << 20, 100 << 20))
        times += [second] * (len(host.made_room) - before)
    assert times == [0, 10, 30, 70, 150, 310, 630, 950]


def test_a_refused_handover_and_a_node_that_does_not_lead_change_nothing() -> None:
    host = Host()
    host.error = InvalidArgument("no")
    host.room.seen(usage(0))
    assert host.refusal is not None
    follower = Host(leads=False)
    follower.room.seen(usage(0))
    assert follower.transfers == []


# --- through a node --------------------------------------------------------------------------------------------------


async def short(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, names: Iterable[str], free_bytes: int) -> None:
    """These nodes look at a disk with so much left."""
    for name in names:
        node = cluster.nodes[name]
        monkeypatch.setattr(node.storage(), "usage", lambda: usage(free_bytes), raising=False)
        node.maintenance.disk_space.check_usage()
        is_short = free_bytes < node.config.limits.min_free_bytes
        await wait_until(
            lambda node=node, is_short=is_short: node.maintenance.disk_space.is_short == is_short,
            "the disk was looked at",
        )


def refuses(node: Node) -> bool:
    return node.clients.short is not None


async def fault_of(client: WireClient, seq: int) -> Fault:
    index, status, body = await client.reply_to(seq)
    assert (index, status) == (0, Status.ERROR)
    return msgspec.msgpack.decode(body, type=Fault)


async def test_a_node_that_is_short_of_room_refuses_only_what_brings_something_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        assert await client.call(b"+1", seq=1) == (Status.OK, b"1")
        await short(cluster, monkeypatch, ["n1"], 5)
        assert refuses(node)
        client.send(b"+10", seq=2)
        client.send(b"-1", seq=3, flags=0xFF & ~Flags.TRANSIENT)
        client.send(b"+100", seq=4, flags=0xFF & ~Flags.TRANSIENT)
        client.send(b"+1", seq=1)
        fault = await fault_of(client, 2)
        assert fault.code == "disk-full" and "n1" in fault.message
        assert (await client.reply_to(3))[1:] == (Status.OK, b"0")
        assert (await fault_of(client, 4)).code == "disk-full", "what a client says of its command has no say"
        assert (await client.reply_to(1))[1:] == (Status.OK, b"1"), "it had been carried out: its reply was kept"
        client.send(b"+1000", seq=0, flags=Flags.TRANSIENT)
        assert (await client.call(b"+0", seq=2))[0] == Status.ERROR
        await short(cluster, monkeypatch, ["n1"], 1 << 40)
        assert await client.call(b"+10", seq=2) == (Status.OK, b"10"), "the same number again"
        assert (await node.status())["disk"] == {"free_bytes": 1 << 40, "is_short": False, "refuses": ""}


async def test_a_leader_hears_that_the_others_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster(tmp_path, nodes=3) as cluster:
        leader = await cluster.wait_leader()
        others = [node.name for node in cluster.followers()]
        await short(cluster, monkeypatch, others, 5)
        await wait_until(lambda: refuses(leader), "the leader refuses")
        await short(cluster, monkeypatch, others[:1], 1 << 40)
        await wait_until(lambda: not refuses(leader), "the leader takes commands again")


async def test_leadership_goes_to_a_node_with_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster(tmp_path, nodes=3) as cluster:
        leader = await cluster.wait_leader()
        await short(cluster, monkeypatch, [leader.name], 5)
        await wait_until(lambda: not leader.group.leads, "it hands over")
        after = await cluster.wait_leader()
        assert after.name != leader.name and not refuses(after)


async def test_a_node_whose_disk_is_full_confirms_nothing_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        tries: list[int] = []

        def no_room(entries: object) -> None:
            tries.append(1)
            raise StorageFull("no room")

        with monkeypatch.context() as patch:
            patch.setattr(node.storage(), "append", no_room)
            client.send(b"+1", seq=1)
            await wait_until(lambda: len(tries) > 1, "the write is tried again")
            assert node.failure is None and not client.inbox
        assert (await client.reply_to(1))[1:] == (Status.OK, b"1")


async def test_a_node_that_starts_on_a_full_disk_waits_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file") as cluster:
        await cluster.nodes["n1"].apply(b"+1")
        await cluster.stop("n1")
        opened = FileStorage.open
        tries: list[int] = []

        def no_room(self: FileStorage, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
            tries.append(1)
            if len(tries) < 3:
                raise StorageFull("no room")
            return opened(self, identity, tail_bytes, alone)

        monkeypatch.setattr(FileStorage, "open", no_room)
        node = await cluster.start("n1")
        await cluster.wait_leader()
        assert len(tries) == 3 and await node.apply(b"+1") == b"2"


async def test_a_full_disk_gets_room_when_the_state_has_shrunk(tmp_path: Path) -> None:
    """Nothing large comes in any more, so the log would never grow to where one is due."""
    tables = {"storage": {"file": {"segment_bytes": 64 << 10}}}
    async with Cluster(tmp_path, nodes=1, storage="file", tables=tables) as cluster:
        node = cluster.nodes["n1"]
        for _ in range(8):
            await node.apply(b"+1" + b" " * (256 << 10))
        assert (await node.storage_usage()).log_bytes > 2 << 20
        node.maintenance.disk_space._mark = 1 << 60
        node.maintenance.disk_space.check_usage()
        await wait_until(lambda: node.group.counters.raft_snapshots_total == 1, "a snapshot is taken")
        assert (await node.storage_usage()).log_bytes < 1 << 20


async def test_a_state_that_is_not_smaller_than_its_log_is_not_written_to_make_room(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, storage="file") as cluster:
        node = cluster.nodes["n1"]
        await node.apply(b"+1")
        log_bytes = (await node.storage_usage()).log_bytes
        node.group.snapshotter.take_to_free_space(0)
        await node.apply(b"+1")
        await wait_until(lambda: not node.group.snapshotter.running, "it is given up")
        assert node.group.counters.raft_snapshots_total == 0
        assert (await node.storage_usage()).log_bytes >= log_bytes
        assert not list((tmp_path / "n1").glob("groups/0/snapshot-*")), "and what was written of it is gone"
        node.group.snapshotter.take()
        await wait_until(lambda: node.group.counters.raft_snapshots_total == 1, "another is taken when it is due")


async def test_a_snapshot_that_is_due_is_given_up_before_it_takes_the_last_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else no session could open, and nothing could be acknowledged."""
    async with Cluster(tmp_path, nodes=1, storage="file") as cluster:
        node = cluster.nodes["n1"]
        await node.apply(b"+1")
        with monkeypatch.context() as patch:
            patch.setattr(node.storage(), "usage", lambda: usage(node.config.limits.min_free_bytes // 2 - 1))
            node.group.snapshotter.take()
            await wait_until(lambda: not node.group.snapshotter.running, "it is given up")
        assert node.group.counters.raft_snapshots_total == 0
        await wait_until(lambda: not list((tmp_path / "n1").glob("groups/0/snapshot-*")), "what was written is gone")
        node.group.snapshotter.take()
        await wait_until(lambda: node.group.counters.raft_snapshots_total == 1, "another is taken when there is room")


async def test_a_transient_command_passes_while_only_messages_that_stay_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        mark = node.config.limits.min_free_bytes
        await short(cluster, monkeypatch, ["n1"], mark - 1)
        client.send(b"+10", seq=0, flags=Flags.TRANSIENT)
        assert await client.call(b"-1", seq=1) == (Status.OK, b"9")
        await short(cluster, monkeypatch, ["n1"], mark // 2 - 1)
        await wait_until(lambda: not node.clients.takes_transient, "the reserve is reached")
        client.send(b"+10", seq=0, flags=Flags.TRANSIENT)
        assert await client.call(b"-1", seq=2) == (Status.OK, b"8")


async def test_giving_up_an_attempt_to_make_room_puts_no_due_snapshot_off(
    tmp_path: Path,
) -> None:
    raft = msgspec.structs.replace(FAST, snapshot_threshold=6)
    async with Cluster(tmp_path, nodes=1, raft=raft) as cluster:
        node = cluster.nodes["n1"]
        for _ in range(8):
            node.group.snapshotter.take_to_free_space(0)
            await wait_until(lambda: not node.group.snapshotter.running, "it is given up")
            await node.apply(b"+1")
        await wait_until(lambda: node.group.counters.raft_snapshots_total == 1, "one is due, and taken")
