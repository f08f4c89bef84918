"""What ends a node, and what its clients and its owner see of it then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from tests.support.nodes import FAST, Cluster, TestRegistry
from tests.support.wire import WireClient, wait_until

from disheap.errors import DiskFailed, NotLeader, StorageError
from disheap.interfaces import Identity, Recovered, StorageUsage
from disheap.kernel.types import NOBODY, Entry, Index, NodeId
from disheap.plugins.registry import Registry
from disheap.protocol.frames import Status
from disheap.runtime.disk.thread import DiskThread, FailStopDisk, run_on
from disheap.runtime.replica.lifecycle import State

PATIENCE_S = 10.0


def registry_with_storage(storage: type[Any]) -> Registry:
    """The installed plugins, with `storage` in the place of the one of its name."""

    class Replaced(TestRegistry):
        def get(self, kind: str, name: str) -> type[Any]:
            return storage if (kind, name) == ("storage", storage.name) else super().get(kind, name)

    return Replaced.load()


async def test_a_log_that_lost_what_is_committed_ends_the_node(tmp_path: Path) -> None:
    from disheap_filelog.storage import FileStorage

    class Forgetful(FileStorage):
        def read(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...]:
            return ()

    raft = msgspec.structs.replace(FAST, log_cache_bytes=4096)
    async with Cluster(tmp_path, nodes=1, storage="file", raft=raft) as cluster:
        client = await cluster.client()
        for count in range(20):
            await client.call(b"+1" + b" " * 1000, confirmed=count)
        await cluster.stop("n1")
        cluster.registry = registry_with_storage(Forgetful)
        node = await cluster.start("n1")
        error = await asyncio.wait_for(node.wait_failed(), PATIENCE_S)
        assert isinstance(error, StorageError)
        assert "lost entry" in str(error)


async def test_a_mistake_of_ours_in_a_peers_message_ends_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path) as cluster:
        follower = cluster.followers()[0]

        def step(message: object) -> None:
            raise AssertionError("committed beyond the end of the log")

        monkeypatch.setattr(follower.group.raft, "step", step)
        error = await asyncio.wait_for(follower.wait_failed(), PATIENCE_S)
        assert isinstance(error, AssertionError)


async def test_a_failed_node_sends_its_clients_away_and_takes_no_more(tmp_path: Path) -> None:
    from disheap_memory.storage import MemoryStorage

    class Failing(MemoryStorage):
        broken = False

        def append(self, entries: Sequence[Entry]) -> None:
            if self.broken:
                raise DiskFailed("the disk is gone")
            super().append(entries)

    async with Cluster(tmp_path, nodes=1, registry=registry_with_storage(Failing)) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        await client.call(b"+1")
        Failing.broken = True
        client.send(b"+1")
        assert (await client.goodbye()).code == "not-leader"
        with pytest.raises(NotLeader):
            await node.apply(b"+1")
        later = await WireClient.connected(cluster.transport, node.client_address)
        assert not later.welcome.leads


async def test_a_disk_that_does_not_answer_is_left_to_itself_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from disheap_memory.storage import MemoryStorage

    before, answer = threading.enumerate(), threading.Event()

    class Hanging(MemoryStorage):
        def close(self) -> None:
            answer.wait(PATIENCE_S)

    monkeypatch.setattr("disheap.runtime.disk.thread.PATIENCE_S", 0.05)
    async with Cluster(tmp_path, nodes=1, registry=registry_with_storage(Hanging)) as cluster:
        async with asyncio.timeout(PATIENCE_S / 2):
            with pytest.raises(DiskFailed, match="has not answered"):
                await cluster.stop("n1")
    (thread,) = [thread for thread in threading.enumerate() if thread not in before]
    answer.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive(), "it ends as soon as the disk answers"


async def test_the_disks_thread_ends_with_the_node(tmp_path: Path) -> None:
    before = threading.enumerate()
    async with Cluster(tmp_path, nodes=1) as cluster:
        (thread,) = [thread for thread in threading.enumerate() if thread not in before]
        await cluster.stop("n1")
        assert not thread.is_alive()


async def test_a_leader_that_steps_down_in_the_same_tick_hands_nothing_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk hangs, and with this tick it also finds that no majority hears it."""
    monkeypatch.setattr("disheap.runtime.replica.group.MAX_WRITE_S", -1.0)
    async with Cluster(tmp_path) as cluster:
        node = await cluster.wait_leader()
        group = node.group
        state = group.raft._state
        for progress in state.progress.values():
            progress.active = False
        state.transferee = NOBODY
        state.elapsed = state.config.election_ticks - 1
        group.tick()
        assert not group.raft.is_leader
        assert node.failure is None


async def test_a_leader_whose_disk_hangs_hands_leadership_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed without it is not applied there, and nobody else answers while it leads (pitfall 26)."""
    from disheap_memory.storage import MemoryStorage

    answer = threading.Event()
    hung: list[object] = []

    class Hanging(MemoryStorage):
        def append(self, entries: Sequence[Entry]) -> None:
            if self in hung:
                answer.wait(PATIENCE_S)
            super().append(entries)

    monkeypatch.setattr("disheap.runtime.replica.group.MAX_WRITE_S", 0.2)
    async with Cluster(tmp_path, registry=registry_with_storage(Hanging)) as cluster:
        client, leader = await cluster.client(), await cluster.wait_leader()
        assert leader.storage() is not None
        hung.append(leader.storage())
        client.send(b"+1", seq=1)
        try:
            await wait_until(lambda: not leader.group.leads, "it leads no longer", PATIENCE_S / 2)
            next_leader = await cluster.wait_leader()
            again = await WireClient.connected(cluster.transport, next_leader.client_address)
            assert (await again.attach(client.session, client.secret))[0] == Status.OK
            assert await again.call(b"+1", seq=1) == (Status.OK, b"1")
        finally:
            answer.set()


# --- storage-rules 6: an error of the disk is the end, whoever asked -------------------------------------------------


def failing_storage() -> type[Any]:
    """In memory. `broken` holds the names of the calls that fail; `gate` holds an append up."""
    from disheap_memory.storage import MemoryStorage

    class Failing(MemoryStorage):
        broken: ClassVar[set[str]] = set()
        gate: ClassVar[threading.Event] = threading.Event()
        waits: ClassVar[bool] = False  # an append, at the gate
        opened: ClassVar[int] = 0

        def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
            type(self).opened += 1
            return super().open(identity, tail_bytes, alone)

        def append(self, entries: Sequence[Entry]) -> None:
            type(self).waits = not self.gate.is_set()
            assert self.gate.wait(PATIENCE_S)
            self._say("append")
            super().append(entries)

        def usage(self) -> StorageUsage:
            self._say("usage")
            return super().usage()

        def close(self) -> None:
            super().close()
            self._say("close")

        def _say(self, call: str) -> None:
            if call in self.broken:
                raise DiskFailed(f"{call}: the disk is gone")

    Failing.gate.set()
    return Failing


async def test_a_disk_that_fails_is_heard_of_though_nobody_waits_for_the_answer() -> None:
    heard: list[BaseException] = []
    began, gate = threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        assert gate.wait(PATIENCE_S)
        raise DiskFailed("gone")

    disk = FailStopDisk(DiskThread(asyncio.get_running_loop()), heard.append)
    asking = asyncio.ensure_future(run_on(disk, work))
    await asyncio.to_thread(began.wait, PATIENCE_S)
    asking.cancel()
    gate.set()
    await wait_until(lambda: bool(heard), "the failure is told")
    await disk.close()
    assert [str(error) for error in heard] == ["gone"]
    assert asking.cancelled()


async def test_a_question_that_hits_a_failed_disk_ends_the_node(tmp_path: Path) -> None:
    storage = failing_storage()
    async with Cluster(tmp_path, nodes=1, registry=registry_with_storage(storage)) as cluster:
        node = cluster.nodes["n1"]
        storage.broken.add("usage")
        with pytest.raises(DiskFailed, match="usage"):
            await node.storage_usage()
        assert isinstance(node.failure, DiskFailed)


async def test_an_error_of_closing_is_raised_by_stop_once_and_everything_is_closed(tmp_path: Path) -> None:
    before, storage = threading.enumerate(), failing_storage()
    async with Cluster(tmp_path, nodes=1, registry=registry_with_storage(storage)) as cluster:
        node = cluster.nodes["n1"]
        storage.broken.add("close")
        with pytest.raises(DiskFailed, match="close"):
            await node.stop()
        assert threading.enumerate() == before
        assert str(await node.wait_failed()) == "close: the disk is gone"


async def test_an_error_of_a_write_while_the_node_stops_is_raised_by_stop(tmp_path: Path) -> None:
    storage = failing_storage()
    async with Cluster(tmp_path, nodes=1, registry=registry_with_storage(storage)) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        storage.gate.clear()
        storage.broken.add("append")
        client.send(b"+1")
        await wait_until(lambda: storage.waits, "the write is under way")
        stopping = asyncio.ensure_future(node.stop())
        await asyncio.sleep(0)
        storage.gate.set()
        with pytest.raises(DiskFailed, match="append"):
            await stopping


async def test_after_an_error_of_the_disk_the_log_is_not_opened_anew(tmp_path: Path) -> None:
    """A repair under way would close the storage, open it again, and go on as if nothing had been."""
    storage = failing_storage()
    async with Cluster(tmp_path, nodes=1, registry=registry_with_storage(storage)) as cluster:
        node = cluster.nodes["n1"]
        node.lifecycle.change(State.REPAIRING)  # as where others have what is damaged
        storage.broken.add("usage")
        node.disk().submit(node.storage().usage, lambda usage, error: None)
        with pytest.raises(DiskFailed, match="usage"):
            await node.recover_again(follow=False)
        assert storage.opened == 1


async def test_the_first_failure_counts_and_a_node_that_failed_hands_nothing_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path) as cluster:
        node = await cluster.wait_leader()
        transferred: list[NodeId] = []
        monkeypatch.setattr(node.group, "transfer", transferred.append)
        first = DiskFailed("first")
        node.failed(first)
        node.failed(DiskFailed("second"))
        await node.stop()
        assert node.failure is first
        assert transferred == []
