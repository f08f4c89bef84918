"""Storage `redis`: each change is one script that Redis carries out whole or not at all.

The index of the log is in memory; entries and snapshots are in Redis alone. After an error whose outcome is not known
every call raises `DiskFailed`, as after a failed fsync.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

from disheap.errors import (
    CodecError,
    DisheapError,
    LogDamaged,
    StorageError,
    StorageGone,
)
from disheap.interfaces import (
    Identity,
    KnownPeers,
    Recovered,
    StorageContext,
    StorageUsage,
    StoredIdentity,
    Stream,
    StreamContext,
)
from disheap.kernel.types import Entry, HardState, Index, NodeId, SnapshotMeta, Term
from disheap_redis import records
from disheap_redis.blocks import Blocks
from disheap_redis.meta import check_meta, peers_of, read_meta
from disheap_redis.records import FORMAT, UNREADABLE, Block, Snapshot
from disheap_redis.server import Lock, Server, check_server
from disheap_redis.settings import LOOK_EVERY_S, SNAPSHOTS, RedisSettings
from disheap_redis.snapshots import Command, RedisSnapshotReader, RedisSnapshotWriter

FIELDS_AT_ONCE = 1000
"""In one command: Redis does nothing else meanwhile."""
REMEDY = "Remove this node from its cluster and replace it, or restore the data of this Redis. Nothing was changed"


class RedisStorage:
    """The storage `redis`. Each method keeps the contract `disheap.interfaces.Storage`."""

    name: ClassVar[str] = "redis"
    api: ClassVar[int] = 1
    Settings: ClassVar[type[msgspec.Struct]] = RedisSettings
    durable: ClassVar[bool] = True

    def __init__(self, settings: RedisSettings, context: StorageContext) -> None:
        self._settings, self._context = settings, context
        place = hashlib.blake2b(str(Path(context.directory).absolute()).encode(), digest_size=8).hexdigest()
        self._prefix = f"{settings.prefix}:{{{place}}}:"
        self._server = Server(settings)
        self._is_open = self._is_closed = False
        self._label = f"{context.random.getrandbits(64):016x}"
        self._lock = Lock(self._server, self._key("meta"), self._label)
        self._blocks = Blocks((), 1, 0)
        self._snapshots: list[Snapshot] = []
        self._parts_made = 0
        self._readers: Counter[str] = Counter()  # by the id of the parts
        self._dropped: set[str] = set()  # parts that a reader still needs
        self._streams: dict[int, Stream] = {}
        self._stream_number = self._position = 0
        self._decoded: tuple[int, tuple[Entry, ...]] = (-1, ())
        self._term = Term(0)
        self._free: int | None = None
        self._looked_at = float("-inf")

    # --- opening and closing -----------------------------------------------------------------------------------------

    def open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        """Takes the lock and reads the index of the log."""
        if self._is_closed:
            self._server = Server(self._settings)
            self._lock = Lock(self._server, self._key("meta"), self._label)
            self._is_closed = False
        if self._is_open:
            raise StorageError("this storage is open already; close it first")
        try:
            return self._open(identity, tail_bytes, alone)
        except BaseException:
            self._give_up()
            raise

    def _open(self, identity: Identity, tail_bytes: int, alone: bool) -> Recovered:
        self._server.wait_loaded()
        check_server(self._server, self._settings.durability)
        before = self._read_meta()
        self._check_meta(before, identity)
        self._lock.take()
        meta = self._read_meta()
        self._check_meta(meta, identity)
        fresh = "identity" not in meta
        own = identity if fresh else records.decode_identity(meta["identity"])
        hard = records.decode_hard(meta["hard"]) if "hard" in meta else HardState(Term(0), NodeId(0))
        self._term = hard.term
        self._read_snapshots()
        self._read_index(int(meta.get("base", b"1")))
        self._begin_stream()
        ambiguous = self._ambiguity(meta, alone)
        self._write_opening(own, ambiguous)
        self._drop_orphans()
        self._is_open = True
        snapshot = self._snapshots[-1].meta if self._snapshots else None
        return Recovered(
            identity=own,
            fresh=fresh,
            hard_state=hard,
            snapshot=snapshot,
            first_index=Index(self._blocks.first),
            last_index=Index(self._blocks.last),
            runs=self._blocks.runs(),
            memberships=self._blocks.memberships(snapshot.index if snapshot else 0),
            tail=self._tail(tail_bytes),
            ambiguous_after=ambiguous,
        )

    def stored(self) -> StoredIdentity | None:
        """What an earlier run has stored. Takes no lock."""
        if self._is_closed:
            self._server = Server(self._settings)
            self._lock = Lock(self._server, self._key("meta"), self._label)
            self._is_closed = False
        self._server.wait_loaded()
        meta = self._read_meta()
        if "identity" not in meta:
            return None
        return StoredIdentity(records.decode_identity(meta["identity"]), peers_of(meta))

    def close(self) -> None:
        """Unlocks. Nothing is buffered."""
        if self._is_open:
            self._is_open = False
            try:
                self._lock.release()
            except DisheapError:
                pass  # the lock ends with the connection
        self._give_up()

    def _give_up(self) -> None:
        self._is_open, self._is_closed = False, True
        self._server.close()

    # --- hard state, members -----------------------------------------------------------------------------------------

    def save_hard_state(self, state: HardState) -> None:
        """Keeps term and vote, also in a Redis that is out of memory: they replace what is there."""
        self._check_open()
        self._lock.apply(self._without_memory, self._set_meta(hard=records.encode(state)))
        self._term = state.term

    def known_peers(self) -> KnownPeers:
        """What was saved last."""
        self._check_open()
        return peers_of(self._read_meta())

    def save_known_peers(self, peers: KnownPeers) -> None:
        """Replaces what was saved before."""
        self._check_open()
        self._lock.apply(self._set_meta(peers=records.encode(peers)))

    # --- the log -----------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """One script removes what is superseded and adds the new block."""
        self._check_open()
        if not entries:
            return
        first = entries[0].index
        blocks = self._blocks
        assert blocks.first <= first <= blocks.last + 1, f"append at {first} to a log of {blocks.first}..{blocks.last}"
        assert max(entry.term for entry in entries) <= self._term, "entries of a term that was not saved"
        dropped = blocks.from_index(first)
        kept = len(blocks.rows) - len(dropped)
        added: list[tuple[Block, bytes]] = []
        if kept and blocks.rows[kept - 1].last >= first:  # a block that is cut in the middle is written anew
            kept -= 1
            cut = blocks.rows[kept]
            dropped = [cut, *dropped]
            added.append(self._encoded(self._entries_of(cut)[: first - cut.first]))
        added.append(self._encoded(entries))
        additions = [command for pair in added for command in self._addition(*pair)]
        self._lock.apply(*additions, *self._removal(dropped))  # the first write is refused if there is no memory
        blocks.drop_last(len(dropped))
        for row, _ in added:
            blocks.add(row)

    def read(self, first: Index, last: Index, max_bytes: int) -> tuple[Entry, ...]:
        """Fetches and decodes the blocks that hold the entries."""
        self._check_open()
        if first < self._blocks.first:
            return ()
        found: list[Entry] = []
        size, index, last = 0, int(first), min(last, Index(self._blocks.last))
        while index <= last:
            row = self._blocks.rows[self._blocks.number_of(index)]
            for entry in self._entries_of(row)[index - row.first :]:
                size += len(entry.data)
                if entry.index > last or (found and size > max_bytes):
                    return tuple(found)
                found.append(entry)
            index = row.last + 1
        return tuple(found)

    def compact(self, first_index: Index) -> Index:
        """Drops whole blocks before `first_index`."""
        self._check_open()
        rows = self._blocks.before(first_index)
        for start in range(0, len(rows), FIELDS_AT_ONCE):
            part = rows[start : start + FIELDS_AT_ONCE]
            self._lock.apply(*self._removal(part), self._set_meta(base=part[-1].last + 1))
            self._blocks.drop_first(len(part))
        return Index(self._blocks.first)

    def flush(self) -> None:
        """Does nothing: every call writes what it was given."""
        self._check_open()

    def clear_ambiguity(self) -> None:
        """Forgets it."""
        self._check_open()
        self._lock.apply(("HDEL", self._key("meta"), "ambiguous"))

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def begin_snapshot(self, meta: SnapshotMeta, replaces_log: bool) -> RedisSnapshotWriter:
        """Begins a snapshot that becomes visible at its commit."""
        self._check_open()
        self._parts_made += 1
        part_id = f"{self._lock.owner}/{self._parts_made}"
        stream = self._context.codec.new_stream(StreamContext("snapshot", part_id))

        def apply(*commands: Command) -> None:
            self._check_open()
            self._lock.apply(*commands)

        def commit(snapshot: Snapshot) -> None:
            self._check_open()
            self._commit(snapshot, replaces_log)

        place = (self._key("parts"), self._key(f"part:{part_id}"))
        return RedisSnapshotWriter(meta, part_id, place, stream, apply, commit, self._reader)

    def open_snapshot(self, index: Index | None = None) -> RedisSnapshotReader | None:
        """Opens the snapshot at `index`, or the newest."""
        self._check_open()
        found = [one for one in self._snapshots if index is None or one.index == index]
        return self._reader(found[-1], found[-1].meta) if found else None

    def _commit(self, snapshot: Snapshot, replaces_log: bool) -> None:
        others = [one for one in self._snapshots if one.index != snapshot.index]
        kept = sorted([*others, snapshot], key=lambda one: one.index)[-SNAPSHOTS:]
        gone = [one for one in self._snapshots if one not in kept]
        commands: list[Command] = [("HDEL", self._key("snapshots"), one.index) for one in gone]
        commands.append(("HSET", self._key("snapshots"), snapshot.index, records.encode(snapshot)))
        if replaces_log:
            commands += [("UNLINK", self._key("index"), self._key("blocks")), self._set_meta(base=snapshot.index + 1)]
        self._lock.apply(*commands)
        self._snapshots = kept
        if replaces_log:
            self._blocks.clear(snapshot.index + 1)
        self._blocks.begin_at(kept[-1].index)
        self._dropped |= {one.id for one in gone if one.id != snapshot.id}
        self._drop_unread()

    def _reader(self, snapshot: Snapshot, meta: SnapshotMeta) -> RedisSnapshotReader:
        stream = self._context.codec.open_stream(snapshot.preamble, StreamContext("snapshot", snapshot.id))
        part = self._key(f"part:{snapshot.id}")
        self._readers[snapshot.id] += 1

        def fetch(number: int) -> bytes | None:
            self._check_open()
            stored: bytes | None = self._server.call("HGET", part, number)
            return stored

        def closed() -> None:
            self._readers[snapshot.id] -= 1
            if self._is_open:
                self._drop_unread()

        return RedisSnapshotReader(snapshot, meta, stream, fetch, closed)

    def _drop_unread(self) -> None:
        """Removes the parts of snapshots that are gone and that nobody reads."""
        for part_id in sorted(self._dropped):
            if not self._readers[part_id]:
                self._dropped.discard(part_id)
                del self._readers[part_id]
                self._lock.apply(("UNLINK", self._key(f"part:{part_id}")), ("SREM", self._key("parts"), part_id))

    # --- the rest ----------------------------------------------------------------------------------------------------

    def usage(self) -> StorageUsage:
        """Looks at the server once a second."""
        self._check_open()
        self._look_at_server()
        return StorageUsage(
            log_bytes=self._blocks.stored_bytes,
            snapshot_bytes=sum(one.stored_bytes for one in self._snapshots),
            log_bytes_since_snapshot=self._blocks.since_snapshot_bytes,
            free_bytes=self._free,
        )

    def memory_bytes(self) -> int:
        """An estimate of what the index takes in this process."""
        return self._blocks.memory_bytes

    def _look_at_server(self) -> None:
        now = time.monotonic()
        if now < self._looked_at + LOOK_EVERY_S:
            return
        self._looked_at = now
        if self._server.call("HGET", self._key("meta"), "owner") != self._lock.owner.encode():
            raise StorageGone(f"the data of this node in {self._server.name} were removed, or somebody else has them")
        try:
            check_server(self._server, self._settings.durability)
        except DisheapError as error:
            raise StorageGone(f"{self._server.name} does not keep what this node confirms any more: {error}") from None
        memory = self._server.info("memory")
        most = int(memory.get("maxmemory", 0))
        self._free = max(0, most - int(memory["used_memory"])) if most else None

    def _check_open(self) -> None:
        if not self._is_open:
            raise StorageError("this storage is not open; call open() first")

    def _key(self, name: str) -> str:
        return self._prefix + name

    @property
    def _without_memory(self) -> Command:
        """Removes nothing. Redis looks at its memory before the first write of a script, and a removal needs none."""
        return ("HDEL", self._key("meta"), "nothing")

    def _set_meta(self, **fields: bytes | str | int) -> Command:
        return ("HSET", self._key("meta"), *(part for pair in fields.items() for part in pair))

    # --- reading what is there ---------------------------------------------------------------------------------------

    def _read_meta(self) -> dict[str, bytes]:
        return read_meta(self._server, self._key("meta"))

    def _check_meta(self, meta: dict[str, bytes], identity: Identity) -> None:
        check_meta(meta, identity, self._server.name, self._context.codec_name)

    def _read_snapshots(self) -> None:
        rows = self._read_hash("snapshots")
        try:
            found = [records.decode_snapshot(value) for value in rows.values()]
        except UNREADABLE:
            raise LogDamaged(self._key("snapshots"), 0, "a record cannot be read", REMEDY) from None
        self._snapshots = sorted(found, key=lambda one: one.index)

    def _read_index(self, base: int) -> None:
        rows = self._read_hash("index")
        try:
            found = [records.decode_block(value) for value in rows.values()]
        except UNREADABLE:
            raise LogDamaged(self._key("index"), 0, "a record cannot be read", REMEDY) from None
        newest = self._snapshots[-1].index if self._snapshots else 0
        self._blocks = Blocks(sorted(found, key=lambda row: row.first), base, newest)
        self._position = max((row.position for row in found), default=0)
        count = int(self._server.call("HLEN", self._key("blocks")))
        wrong = self._blocks.gap() or (f"{count} blocks for {len(found)} records" if count != len(found) else "")
        if not wrong and self._blocks.first > newest + 1:
            wrong = f"the log begins at {self._blocks.first}, and the newest snapshot is at {newest}"
        if wrong:
            raise LogDamaged(self._key("index"), 0, wrong, REMEDY)

    def _read_hash(self, name: str) -> dict[bytes, bytes]:
        """In steps: Redis does nothing else during one."""
        cursor = b"0"
        rows: dict[bytes, bytes] = {}
        while True:
            cursor, flat = self._server.call("HSCAN", self._key(name), cursor, "COUNT", FIELDS_AT_ONCE)
            rows.update(zip(flat[::2], flat[1::2], strict=True))
            if cursor == b"0":
                return rows

    def _begin_stream(self) -> None:
        """Each opening has a stream of its own, because a codec must never see a position twice."""
        preambles = {int(number): preamble for number, preamble in self._read_hash("streams").items()}
        used = {row.stream for row in self._blocks.rows}
        if missing := used - set(preambles):
            raise LogDamaged(self._key("streams"), 0, f"stream {min(missing)} is missing", REMEDY)
        self._streams = {
            number: self._context.codec.open_stream(preambles[number], StreamContext("segment", str(number)))
            for number in sorted(used)
        }
        self._stream_number = max(preambles, default=0) + 1
        label = StreamContext("segment", str(self._stream_number))
        preamble, self._streams[self._stream_number] = self._context.codec.new_stream(label)
        unused = sorted(set(preambles) - used)
        commands: list[Command] = [("HSET", self._key("streams"), self._stream_number, preamble)]
        if unused:
            commands.append(("HDEL", self._key("streams"), *unused))
        self._opening: list[Command] = commands

    def _ambiguity(self, meta: dict[str, bytes], alone: bool) -> Index | None:
        """A server that need not sync may have forgotten something when it was started again."""
        if alone:
            return None
        if "ambiguous" in meta:
            return Index(int(meta["ambiguous"]))
        was = meta.get("run_id", b"").decode()
        is_other = was not in ("", self._server.info("server")["run_id"])
        return Index(self._blocks.last) if is_other and self._settings.durability == "server" else None

    def _write_opening(self, own: Identity, ambiguous: Index | None) -> None:
        fields: dict[str, bytes | str | int] = {
            "format": FORMAT,
            "identity": records.encode(own),
            "codec": self._context.codec_name,
            "base": self._blocks.first,
            "run_id": self._server.info("server")["run_id"],
        }
        if ambiguous is not None:
            fields["ambiguous"] = ambiguous
        self._lock.apply(*self._opening, self._set_meta(**fields))

    def _drop_orphans(self) -> None:
        """Removes what a process that was killed has left."""
        visible = {one.id.encode() for one in self._snapshots}
        for part_id in self._server.call("SMEMBERS", self._key("parts")):
            if part_id not in visible:
                key = self._key(f"part:{part_id.decode()}")
                self._lock.apply(("UNLINK", key), ("SREM", self._key("parts"), part_id))

    def _tail(self, tail_bytes: int) -> tuple[Entry, ...]:
        tail: list[Entry] = []
        for row in reversed(self._blocks.rows):
            for entry in reversed(self._entries_of(row)):
                tail_bytes -= len(entry.data)
                if tail_bytes < 0:
                    return tuple(reversed(tail))
                tail.append(entry)
        return tuple(reversed(tail))

    # --- blocks ------------------------------------------------------------------------------------------------------

    def _encoded(self, entries: Sequence[Entry]) -> tuple[Block, bytes]:
        self._position += 1  # never used twice, also if the append fails
        raw = records.encode(entries)
        stored = self._streams[self._stream_number].encode(raw, self._position)
        row = Block(
            self._position, entries[0].index, entries[-1].index, len(raw), len(stored), records.checksum_of(stored),
            self._stream_number, records.runs_of(entries), records.memberships_of(entries),
        )  # fmt: skip
        return row, stored

    def _addition(self, row: Block, stored: bytes) -> tuple[Command, Command]:
        return (
            ("HSET", self._key("blocks"), row.position, stored),
            ("HSET", self._key("index"), row.position, records.encode(row)),
        )

    def _removal(self, rows: Sequence[Block]) -> list[Command]:
        commands: list[Command] = []
        for start in range(0, len(rows), FIELDS_AT_ONCE):
            numbers = [row.position for row in rows[start : start + FIELDS_AT_ONCE]]
            commands += [("HDEL", self._key("blocks"), *numbers), ("HDEL", self._key("index"), *numbers)]
        return commands

    def _entries_of(self, row: Block) -> tuple[Entry, ...]:
        if self._decoded[0] != row.position:
            stored = self._server.call("HGET", self._key("blocks"), row.position)
            where = self._key("blocks")
            if stored is None or records.checksum_of(stored) != row.checksum:
                wrong = "is missing" if stored is None else "does not have the checksum that was stored with it"
                raise LogDamaged(where, row.position, f"the block of index {row.first} {wrong}", REMEDY)
            try:
                raw = self._streams[row.stream].decode(stored, row.position, row.raw_bytes)
                self._decoded = (row.position, records.decode_entries(raw))
            except (CodecError, *UNREADABLE) as error:
                reason = f"the block of index {row.first} cannot be decoded: {error}"
                raise LogDamaged(where, row.position, reason, REMEDY) from None
        return self._decoded[1]


if TYPE_CHECKING:
    from disheap.interfaces import IdentityStore, MemoryEstimating, PeerStore, Rereadable, Storage

    _fits: type[Storage] = RedisStorage
    _remembers: type[PeerStore] = RedisStorage
    _names: type[IdentityStore] = RedisStorage
    _estimates: type[MemoryEstimating] = RedisStorage
    _rereads: type[Rereadable] = RedisSnapshotWriter
