"""A Redis that is down, out of memory, a replica, careless, or that holds somebody else's data."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_process import RedisProcess

from disheap.errors import (
    ConfigError,
    DiskFailed,
    LogDamaged,
    SnapshotDamaged,
    StorageFull,
    StorageGone,
    StorageLocked,
    VersionUnsupported,
    WrongCodec,
    WrongDirectory,
)
from disheap.interfaces import CodecContext, StorageContext
from disheap.kernel.types import HardState, Index, NodeId, Term
from disheap.plugins.registry import Registry
from disheap.testing.conformance.storage_parts import IDENTITY, entries, read_log, read_snapshot, write_snapshot
from disheap.testing.fixtures import SystemClock
from disheap_redis.settings import RedisSettings
from disheap_redis.storage import RedisStorage

STATE = HardState(Term(9), NodeId(1))


def make(server: RedisProcess, codec: str = "none", **settings: Any) -> RedisStorage:
    generator = random.Random(1)
    context = StorageContext(
        "/data/groups/0", Registry.load().codec(codec, {}, CodecContext(generator)), codec, SystemClock(), generator
    )
    return RedisStorage(RedisSettings(**{"url": server.url, **settings}), context)


def opened(server: RedisProcess, **settings: Any) -> RedisStorage:
    storage = make(server, **settings)
    storage.open(IDENTITY, 1 << 20, alone=False)
    storage.save_hard_state(STATE)
    return storage


@pytest.fixture
def storage(redis_server: RedisProcess) -> Iterator[RedisStorage]:
    storage = opened(redis_server)
    yield storage
    storage.close()


def key(storage: RedisStorage, name: str) -> str:
    return storage._key(name)


def test_a_redis_that_is_down_is_named_without_its_password(redis_server: RedisProcess) -> None:
    redis_server.kill()
    url = redis_server.url.replace("://", "://user:hunter2@") + "?client_name=hunter3"
    storage = make(redis_server, url=url)
    for call in (storage.stored, lambda: storage.open(IDENTITY, 0, alone=False)):
        with pytest.raises(DiskFailed, match="cannot be reached") as caught:
            call()
        assert "hunter" not in str(caught.value)
        assert f"127.0.0.1:{redis_server.port}" in str(caught.value)


def test_a_wrong_password_is_a_wrong_setting(tmp_path: Path) -> None:
    with RedisProcess(tmp_path) as server:
        server.command("CONFIG", "SET", "requirepass", "right")
        with pytest.raises(ConfigError, match="user or password") as caught:
            make(server, url=server.url.replace("://", "://:hunter2@")).open(IDENTITY, 0, alone=False)
        assert "hunter2" not in str(caught.value)
        opened(server, url=server.url.replace("://", "://:right@")).close()


def test_what_was_confirmed_is_there_after_the_server_was_killed(
    storage: RedisStorage, redis_server: RedisProcess
) -> None:
    storage.append(entries(1, 10))
    write_snapshot(storage, 5, b"state" * 100_000)
    redis_server.kill(signal.SIGKILL)
    with pytest.raises(DiskFailed, match="is not known"):
        storage.append(entries(11, 11))
    redis_server.start()
    for call in (lambda: storage.append(entries(11, 11)), storage.usage, storage.known_peers):
        with pytest.raises(DiskFailed):
            call()
    again = make(redis_server)
    recovered = again.open(IDENTITY, 1 << 20, alone=False)
    assert (recovered.hard_state, recovered.last_index, recovered.ambiguous_after) == (STATE, 10, None)
    assert read_log(again, 1, 10) == entries(1, 10)
    assert read_snapshot(again) == b"state" * 100_000
    again.close()


def test_a_redis_without_memory_refuses_an_append_and_takes_it_later(
    storage: RedisStorage, redis_server: RedisProcess
) -> None:
    storage.append(entries(1, 5))
    redis_server.command("CONFIG", "SET", "maxmemory", "1mb")
    writer = None
    with pytest.raises(StorageFull, match="out of memory"):
        storage.append([*entries(4, 9, size=2000)])
    storage.save_hard_state(HardState(Term(10), NodeId(2)))  # an election goes on
    with pytest.raises(StorageFull):
        writer = storage.begin_snapshot(_meta(3), False)
        writer.write(b"x" * (1 << 20))
    assert writer is not None
    writer.abort()
    assert read_log(storage, 1, 9) == entries(1, 5)
    storage._looked_at = 0.0
    assert storage.usage().free_bytes == 0
    redis_server.command("CONFIG", "SET", "maxmemory", "0")
    storage.append([*entries(4, 9, size=2000)])
    storage.close()
    again = make(redis_server)
    recovered = again.open(IDENTITY, 0, alone=False)
    assert (recovered.last_index, recovered.hard_state, recovered.snapshot) == (9, (10, 2), None)
    again.close()


def _meta(index: int) -> Any:
    from disheap.testing.conformance.storage_parts import meta

    return meta(index)


def test_a_replica_is_refused_and_a_master_that_becomes_one_stops_the_node(
    storage: RedisStorage, redis_server: RedisProcess
) -> None:
    storage.append(entries(1, 3))
    redis_server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(DiskFailed, match="has become a replica"):
        storage.append(entries(4, 4))
    with pytest.raises(DiskFailed):
        storage.append(entries(4, 4))
    with pytest.raises(ConfigError, match="is a replica"):
        make(redis_server).open(IDENTITY, 0, alone=False)
    redis_server.command("REPLICAOF", "NO", "ONE")
    again = make(redis_server)
    assert again.open(IDENTITY, 0, alone=False).last_index == 3
    again.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"appendfsync": "everysec"}, "appendonly yes, appendfsync everysec"),
        ({"appendfsync": "no"}, "appendfsync no"),
        ({"appendonly": "no"}, "appendonly no"),
        ({"maxmemory_policy": "allkeys-lru"}, "would drop parts of the log"),
    ],
)
def test_a_careless_server_is_refused(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    with RedisProcess(tmp_path, **settings) as server:
        with pytest.raises(ConfigError, match=words):
            make(server).open(IDENTITY, 0, alone=False)
        if "maxmemory_policy" in settings:
            with pytest.raises(ConfigError, match=words):
                make(server, durability="server").open(IDENTITY, 0, alone=False)
        else:
            opened(server, durability="server").close()


def test_a_server_that_stops_syncing_stops_the_node(storage: RedisStorage, redis_server: RedisProcess) -> None:
    redis_server.command("CONFIG", "SET", "appendfsync", "everysec")
    storage._looked_at = 0.0
    with pytest.raises(StorageGone, match="appendfsync everysec"):
        storage.usage()


def test_with_the_servers_durability_a_restart_of_the_server_is_ambiguous(tmp_path: Path) -> None:
    """Entries may be lost, so the node must not vote before it has caught up."""
    with RedisProcess(tmp_path, appendfsync="everysec") as server:
        storage = opened(server, durability="server")
        storage.append(entries(1, 5))
        storage.close()
        again = opened(server, durability="server")
        assert again.open_snapshot() is None
        again.close()
        server.kill(signal.SIGTERM)
        server.start()
        for _ in range(2):
            after = make(server, durability="server")
            assert after.open(IDENTITY, 0, alone=False).ambiguous_after == 5
            after.close()
        after.open(IDENTITY, 0, alone=False)
        after.clear_ambiguity()
        after.close()
        assert after.open(IDENTITY, 0, alone=False).ambiguous_after is None
        after.close()


@pytest.mark.parametrize("look", [False, True])
def test_data_that_were_removed_while_the_node_runs_stop_it(
    storage: RedisStorage, redis_server: RedisProcess, look: bool
) -> None:
    storage.append(entries(1, 3))
    redis_server.command("FLUSHALL")
    storage._looked_at = 0.0
    with pytest.raises(StorageGone, match="were removed"):
        if look:
            storage.usage()
        else:
            storage.append(entries(4, 4))
    with pytest.raises(StorageGone if look else DiskFailed):
        storage.save_hard_state(STATE)


def test_an_owner_whose_connection_is_gone_is_replaced_and_writes_nothing_more(
    storage: RedisStorage, redis_server: RedisProcess
) -> None:
    storage.append(entries(1, 3))
    with pytest.raises(StorageLocked, match="another process"):
        make(redis_server).open(IDENTITY, 0, alone=False)
    redis_server.command("CLIENT", "KILL", "ID", storage._lock.owner.split("/")[1])
    second = make(redis_server)
    assert second.open(IDENTITY, 0, alone=False).last_index == 3
    with pytest.raises(DiskFailed):
        storage.append(entries(4, 4))
    second.append(entries(4, 5, term=2))
    assert read_log(second, 1, 9) == [*entries(1, 3), *entries(4, 5, term=2)]
    second.close()


def test_keys_of_somebody_else_are_refused_and_left_alone(redis_server: RedisProcess) -> None:
    storage = make(redis_server)
    redis_server.command("SET", key(storage, "meta"), "mine")
    with pytest.raises(WrongDirectory, match="no data of disheap"):
        storage.open(IDENTITY, 0, alone=False)
    assert redis_server.command("STRLEN", key(storage, "meta")) == ":4"
    other = opened(redis_server, prefix="other")
    other.append(entries(1, 2))
    other.close()


def test_another_codec_and_a_newer_format_are_refused(redis_server: RedisProcess) -> None:
    storage = opened(redis_server)
    storage.close()
    with pytest.raises(WrongCodec, match="codec none"):
        make(redis_server, codec="zstd").open(IDENTITY, 0, alone=False)
    redis_server.command("HSET", key(storage, "meta"), "format", "2")
    with pytest.raises(VersionUnsupported, match="format 2"):
        make(redis_server).open(IDENTITY, 0, alone=False)


@pytest.mark.parametrize("name", ["blocks", "index", "streams"])
@pytest.mark.parametrize("how", ["spoilt", "removed"])
def test_a_field_that_was_changed_by_hand_is_damage(
    storage: RedisStorage, redis_server: RedisProcess, name: str, how: str
) -> None:
    for first in (1, 4, 7):
        storage.append(entries(first, first + 2))
    storage.close()
    field = "1" if name == "streams" else "2"
    if how == "removed":
        assert redis_server.command("HDEL", key(storage, name), field) == ":1"
    else:
        assert redis_server.command("HSET", key(storage, name), field, "spoilt") == ":0"
    again = make(redis_server)
    if (name, how) == ("streams", "spoilt"):
        with pytest.raises(WrongCodec):
            again.open(IDENTITY, 0, alone=False)
        return
    with pytest.raises(LogDamaged) as caught:
        again.open(IDENTITY, 0, alone=False)
        again.read(Index(1), Index(9), 1 << 20)
    assert "replace it" in str(caught.value)
    again.close()


def test_a_snapshot_that_was_changed_by_hand_is_damage(storage: RedisStorage, redis_server: RedisProcess) -> None:
    storage.append(entries(1, 3))
    write_snapshot(storage, 3, b"state" * 200_000)
    part = key(storage, f"part:{storage._snapshots[0].id}")
    redis_server.command("HSET", part, "1", "spoilt")
    with pytest.raises(SnapshotDamaged, match="checksum"):
        read_snapshot(storage)
    redis_server.command("HDEL", part, "1")
    with pytest.raises(SnapshotDamaged, match="missing"):
        read_snapshot(storage)


def test_nothing_is_left_of_snapshots_that_nobody_sees(storage: RedisStorage, redis_server: RedisProcess) -> None:
    storage.append(entries(1, 9))
    storage.begin_snapshot(_meta(2), False).write(b"x" * 600_000)
    reader = None
    for index in (3, 4, 5, 6):
        write_snapshot(storage, index, b"y" * 300_000)
        reader = reader or storage.open_snapshot()
    assert reader is not None
    assert redis_server.command("SCARD", key(storage, "parts")) == ":4"
    assert reader.read(299_000, 5000) == b"y" * 1000
    reader.close()
    assert redis_server.command("SCARD", key(storage, "parts")) == ":3"
    storage.close()
    again = make(redis_server)
    again.open(IDENTITY, 0, alone=False)
    assert redis_server.command("SCARD", key(storage, "parts")) == ":2"
    again.close()


def test_a_wrong_url_is_a_wrong_setting(redis_server: RedisProcess) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        make(redis_server, url="http://localhost")


def test_the_collector_is_not_needed(storage: RedisStorage) -> None:
    """A node runs without it."""
    import gc

    def work(index: int) -> None:
        storage.append(entries(index, index))
        storage.save_hard_state(STATE)
        storage.read(Index(index), Index(index), 100)
        storage._looked_at = 0.0
        storage.usage()

    for index in range(1, 20):
        work(index)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for index in range(20, 220):
            work(index)
        assert len(gc.get_objects()) - before < 100 + 2 * 200, "two for each block, in the index"
        assert gc.collect() < 50
    finally:
        gc.enable()
