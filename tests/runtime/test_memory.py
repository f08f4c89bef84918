"""The high-water mark: what counts as used, what is refused above it, and what goes on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from tests.support.nodes import Cluster
from tests.support.wire import WireClient, wait_until

from disheap.config.node_config import Limits
from disheap.errors import DiskFull, MemoryFull, RequestError
from disheap.kernel.types import NodeId
from disheap.protocol import broker, gossip
from disheap.protocol.frames import Fault, Status
from disheap.protocol.gossip import Gossip, GroupReport
from disheap.runtime.clients.server import MEMORY_CHECK_BYTES
from disheap.runtime.memory.process import FreeBlocks
from disheap.runtime.memory.watch import (
    BLOCK_BYTES,
    BLOCK_S,
    BYTE_S,
    CHECK_S,
    GOSSIP_VALID_S,
    REUSABLE_SHARE,
    SMALL_BLOCK_S,
    TRANSIENT_SHARE,
    TRIM_BOUND_S,
    TRIM_MAX_BYTES,
    TRIM_MAX_S,
    TRIM_S,
    Estimate,
    MemoryWatch,
    mark_bytes,
)
from disheap.runtime.replica import applying
from disheap.testing.inspected import InspectedMember as Node

MIB = 1 << 20
MARK = 400 * MIB
BASE = 40 * MIB


class Host:
    """One node of three and its process, as the watch sees them. `free` is what the allocator keeps."""

    def __init__(self, mark: int = MARK, has_state: bool = True) -> None:
        self.now = 100.0
        self.has_state = has_state
        self.state = 0
        self.free = 0
        self.weight = 1.0  # of the real size to the estimate
        self.gives_back = 1.0  # this share of what is free
        self.measures = True
        self.keeps_free_memory = False
        self.looks = self.trims = 0
        self.most_free = 0  # of all that one trim found
        self.trim_takes_s = self.longest_trim_s = 0.0
        self.blocks: FreeBlocks | None = None
        self.told: list[bool] = []
        self.refusal: RequestError | None = None
        self.takes_transient = True
        self.watch = MemoryWatch(self, NodeId(1), mark, self, self)

    def monotonic(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return 0

    def limit_bytes(self) -> int | None:
        return None

    def resident_bytes(self) -> int | None:
        return BASE + int(self.state * self.weight) + self.free if self.measures else None

    def keep_free_memory(self) -> None:
        self.keeps_free_memory = True

    def return_free_memory(self) -> float:
        self.trims += 1
        self.most_free = max(self.most_free, self.free)
        went_back = int(self.free * self.gives_back)
        self.free -= went_back
        took_s = self.trim_takes_s + BYTE_S * went_back
        self.longest_trim_s = max(self.longest_trim_s, took_s)
        return took_s

    def free_blocks(self) -> FreeBlocks | None:
        return self.blocks

    def scatters(self, blocks: int, block_bytes: int) -> None:
        """The free memory lies in so many places from now on, and a trim has to look at each."""
        self.blocks = FreeBlocks(blocks, blocks * block_bytes)
        self.trim_takes_s = BLOCK_S * blocks if block_bytes >= BLOCK_BYTES else SMALL_BLOCK_S * blocks

    def memory_estimate(self) -> Estimate:
        self.looks += 1
        return Estimate(self.state if self.has_state else 0, self.has_state)

    def send_gossip(self) -> None:
        self.told.append(self.watch.is_short)

    def refuse(self, kind: type[RequestError], reason: RequestError | None, takes_transient: bool) -> None:
        assert kind is MemoryFull
        self.refusal, self.takes_transient = reason, takes_transient

    def member_name(self, node: NodeId) -> str:
        return f"n{node}"

    def becomes(self, mib: float) -> None:
        """The state, in steps of a tick; what it loses stays with the allocator."""
        target = int(mib * MIB)
        step = 4 * MIB if target > self.state else -4 * MIB
        while self.state != target:
            change = step if abs(target - self.state) > abs(step) else target - self.state
            self.state += change
            self.free = max(0, self.free - change) if change > 0 else self.free - int(change * self.weight)
            self.check_usage()

    def frees(self, size: int) -> None:
        """That much of the state goes, and nobody looks yet."""
        size = min(size, self.state)
        self.state -= size
        self.free += size

    def check_usage(self, seconds: float = 1.5 * CHECK_S) -> None:
        self.now += seconds
        self.watch.tick()

    def hears(self, peer: int, is_short: bool) -> None:
        self.watch.heard(NodeId(peer), Gossip((), memory_is_short=is_short))


def test_memory_is_looked_at_once_in_a_while() -> None:
    host = Host()
    for _ in range(10):
        host.watch.tick()
    assert host.looks == 1
    host.check_usage()
    assert host.looks == 2


def test_above_the_mark_a_leader_refuses_says_why_and_tells_the_others_at_once() -> None:
    host = Host()
    host.becomes(350)
    assert host.refusal is None and host.told == []
    host.becomes(362)
    assert isinstance(host.refusal, MemoryFull)
    for words in ("limits.memory_high_water", "memory of n1", "consumed or removed"):
        assert words in str(host.refusal)
    assert host.told == [True]
    status = host.watch.status()
    assert status["is_short"] and status["refuses"] == str(host.refusal) and status["high_water_bytes"] == MARK


def test_commands_are_taken_again_an_eighth_below_the_mark() -> None:
    host = Host()
    host.becomes(362)
    host.becomes(330)
    assert host.refusal is not None
    host.becomes(300)
    assert host.refusal is None and host.told == [True, False]


def test_the_real_size_counts_where_the_estimate_is_too_small_and_corrects_it() -> None:
    host = Host()
    host.weight = 1.5
    host.becomes(245)
    assert host.refusal is not None, "245 MiB by the estimate are 367 in truth"
    host.measures = False
    host.check_usage()
    assert host.refusal is not None, "the ratio was learned"


def test_the_estimate_counts_where_the_real_size_is_not_known() -> None:
    host = Host()
    host.measures = False
    host.becomes(362)
    assert host.refusal is not None
    host.becomes(300)
    assert host.refusal is None


def test_a_process_that_was_large_when_the_node_started_may_become_small() -> None:
    """A node in a program of somebody else's."""
    host = Host()
    host.free = 500 * MIB
    host.watch = MemoryWatch(host, NodeId(1), MARK, host, host)
    host.gives_back = 0.0
    host.check_usage()
    assert host.refusal is not None
    host.free = 0
    host.check_usage()
    assert host.refusal is None


def test_what_was_freed_is_given_back_to_the_system() -> None:
    host = Host()
    host.becomes(362)
    host.becomes(0)
    for _ in range(20):
        host.check_usage()
    assert host.trims > 0 and host.refusal is None
    assert (host.resident_bytes() or 0) < BASE + 40 * MIB


def test_free_memory_that_cannot_go_back_is_used_again() -> None:
    host = Host()
    host.gives_back = 0.0
    host.becomes(362)
    host.becomes(40)
    for _ in range(20):
        host.check_usage()
    assert host.refusal is None, "the process is as large as before, and nine tenths of it are free"
    host.becomes(362)
    assert host.refusal is not None


def test_what_counts_as_reusable_has_a_bound() -> None:
    """A purge frees most of the state at once, and what comes then does not fit into what is free."""
    host = Host()
    host.gives_back = 0.0
    host.becomes(362)
    host.state, host.free = 40 * MIB, 322 * MIB
    for _ in range(20):
        host.check_usage()
    assert host.refusal is None
    while host.refusal is None:
        host.state += MIB
        host.check_usage()
    assert (host.resident_bytes() or 0) <= MARK * (1 + REUSABLE_SHARE) + 4 * MIB


def test_a_machine_that_says_nothing_is_believed_nothing() -> None:
    host = Host(has_state=False)
    host.gives_back = 0.0
    host.becomes(380)
    assert host.refusal is not None
    for _ in range(1000):
        host.check_usage(1.0)
    assert host.refusal is not None, "its state may be what takes the memory"
    host.free = 0
    host.state = 100 * MIB
    host.check_usage()
    assert host.refusal is None


def test_requests_to_give_memory_back_that_come_to_nothing_become_rare() -> None:
    host = Host()
    host.gives_back = 0.0
    host.free = 200 * MIB
    for _ in range(600):
        host.check_usage(1.0)
    assert 5 < host.trims < 600 * TRIM_S / TRIM_MAX_S + 10


def test_what_is_freed_at_once_goes_back_in_steps() -> None:
    """A trim of 800 MiB stops the loop for 50 to 90 ms."""
    host = Host(mark=2000 * MIB)
    host.becomes(1000)
    while host.state:
        for _ in range(4):  # within a millisecond, and no tick comes
            host.frees(4 * MIB)
        host.watch.freed()
    assert host.most_free <= TRIM_MAX_BYTES + 16 * MIB
    assert (host.resident_bytes() or 0) <= BASE + TRIM_MAX_BYTES + 16 * MIB


def test_looking_at_freed_memory_asks_the_system_nothing_while_there_is_little() -> None:
    host = Host()
    host.becomes(200)
    host.frees(20 * MIB)
    host.measures = False
    host.watch.freed()
    assert host.watch.status()["resident_bytes"] == BASE + 200 * MIB


def test_a_trim_that_would_be_slow_is_left_out_until_the_state_has_halved() -> None:
    """A trim looks at each free block of more than a page, however little of it goes back."""
    host = Host(mark=4000 * MIB)
    host.gives_back = 0.5
    host.becomes(3200)
    for blocks in range(0, 150_000, 2_000):
        host.scatters(blocks, 8_000)
        host.becomes(3200 - 1200 * blocks / 150_000)
    assert host.trims > 5 and TRIM_BOUND_S / 2 < host.longest_trim_s <= TRIM_BOUND_S
    trims = host.trims
    host.becomes(1605)
    host.check_usage(TRIM_MAX_S)
    assert host.trims == trims, "the state has not halved"
    host.state = 1500 * MIB
    host.watch.freed()
    host.watch.check_usage()
    assert host.trims == trims, "not within a command, or while one arrives"
    host.check_usage(TRIM_MAX_S)
    host.check_usage(TRIM_MAX_S)
    assert host.trims == trims + 1, "once"


def test_a_trim_is_quick_again_when_free_blocks_have_merged() -> None:
    host = Host(mark=4000 * MIB)
    host.becomes(3200)
    for blocks in range(0, 90_000, 2_000):
        host.scatters(blocks, 8_000)
        host.becomes(3200 - 720 * blocks / 90_000)
    assert host.longest_trim_s > TRIM_BOUND_S / 2
    host.scatters(150_000, 8_000)
    trims = host.trims
    host.becomes(2400)
    assert host.trims == trims
    host.scatters(1_000, 850_000)
    host.becomes(2300)
    assert host.trims > trims and host.longest_trim_s <= TRIM_BOUND_S


def test_the_allocator_returns_nothing_by_itself_where_the_watch_trims() -> None:
    """One call that frees the last block would return all of them."""
    assert Host().keeps_free_memory and not Host(mark=0).keeps_free_memory


def test_many_small_free_blocks_do_not_keep_a_large_one_from_going_back() -> None:
    host = Host(mark=2000 * MIB)
    host.becomes(1600)
    for blocks in range(0, 300_000, 10_000):
        host.scatters(blocks, 1_000)
        host.becomes(1600 - 200 * blocks / 300_000)
    trims = host.trims
    for state in range(1400, 1000, -10):
        assert host.blocks is not None
        host.blocks = host.blocks._replace(size_bytes=host.blocks.size_bytes + 10 * MIB)
        host.becomes(state)
    assert host.trims > trims + 5 and (host.resident_bytes() or 0) < BASE + 1100 * MIB


def test_memory_in_too_many_places_to_go_back_is_used_again() -> None:
    host = Host()
    host.scatters(200_000, 8_000)
    host.becomes(MARK * (1 + TRANSIENT_SHARE) // MIB - BASE // MIB)
    assert host.refusal is not None
    host.becomes(200)
    assert host.trims == 0 and host.refusal is None


def test_one_node_that_is_short_is_enough_and_a_silent_one_holds_nobody_up() -> None:
    host = Host()
    host.hears(3, True)
    assert "memory of n3 " in str(host.refusal)
    host.hears(2, True)
    assert "memory of n2, n3 " in str(host.refusal)
    host.hears(2, False)
    host.check_usage()
    assert "memory of n3 " in str(host.refusal)
    host.check_usage(GOSSIP_VALID_S)
    assert host.refusal is None
    host.hears(3, True)
    host.hears(3, False)
    assert host.refusal is None


def test_transient_messages_pass_up_to_an_eighth_above_the_mark_of_every_node() -> None:
    host = Host()
    host.becomes(365)
    assert host.refusal is not None and host.takes_transient
    host.becomes(412)
    assert not host.takes_transient
    host.becomes(365)
    assert host.refusal is not None and host.takes_transient
    host.watch.heard(NodeId(3), Gossip((), memory_is_short=True, memory_is_exhausted=True))
    assert not host.takes_transient
    host.hears(3, True)
    assert host.takes_transient


def test_a_node_without_a_mark_still_heeds_the_others() -> None:
    host = Host(mark=0)
    host.becomes(5000)
    assert host.refusal is None
    host.hears(2, True)
    assert host.refusal is not None
    host.check_usage(GOSSIP_VALID_S)
    assert host.refusal is None


@pytest.mark.parametrize(
    ("share", "absolute", "limit", "mark"),
    [(0.4, 0, 1000, 400), (0.4, 7, 1000, 7), (0.4, 0, None, 0), (0.0, 0, 1000, 0), (0.0, 7, None, 7)],
)
def test_the_mark_is_a_share_of_what_is_allowed_unless_it_is_set_in_bytes(
    share: float, absolute: int, limit: int | None, mark: int
) -> None:
    assert mark_bytes(share, absolute, limit) == mark


def test_gossip_says_whether_memory_is_short() -> None:
    for sent in (Gossip(), Gossip((GroupReport(0, True, 5, 6, b"h", 7),), True, True)):
        assert gossip.decode(gossip.encode(sent)) == sent


# --- through a node --------------------------------------------------------------------------------------------------


class Given:
    """The memory of a node as a test wants it."""

    def __init__(self) -> None:
        self.resident = 10 * MIB

    def limit_bytes(self) -> int | None:
        return 1000 * MIB

    def resident_bytes(self) -> int | None:
        return self.resident

    def keep_free_memory(self) -> None:
        self.keeps_free_memory = True

    def return_free_memory(self) -> float:
        return 0.0

    def free_blocks(self) -> None:
        return None


def short(cluster: Cluster, names: Iterable[str], resident: int = 500 * MIB) -> None:
    for name in names:
        watch = cluster.nodes[name].memory
        source = watch._source
        if not isinstance(source, Given):
            source = watch._source = Given()
            watch.high_water_bytes, watch._base_bytes = 400 * MIB, source.resident
        source.resident = resident


def refuses(node: Node) -> bool:
    return node.clients.short is not None


async def fault_of(client: WireClient, seq: int) -> Fault:
    index, status, body = await client.reply_to(seq)
    assert (index, status) == (0, Status.ERROR)
    return msgspec.msgpack.decode(body, type=Fault)


async def test_a_node_that_is_short_of_memory_refuses_only_what_brings_something_in(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        short(cluster, ["n1"])
        await wait_until(lambda: refuses(node), "the node refuses")
        client.send(b"+10", seq=1)
        client.send(b"-1", seq=2)
        fault = await fault_of(client, 1)
        assert fault.code == "memory-full" and "n1" in fault.message
        assert (await client.reply_to(2))[1:] == (Status.OK, b"-1")
        short(cluster, ["n1"], 10 * MIB)
        await wait_until(lambda: not refuses(node), "there is memory again")
        assert await client.call(b"+10", seq=1) == (Status.OK, b"9"), "the same number again"
        status = (await node.status())["memory"]
        assert not status["is_short"] and status["resident_bytes"] == 10 * MIB


async def test_a_leader_that_takes_much_in_looks_before_its_time(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        node.memory._checked_at = float("inf")  # the clock alone asks for no look
        short(cluster, ["n1"])
        for seq in range(1, MEMORY_CHECK_BYTES // MIB + 1):
            assert await client.call(b"+1" + b" " * MIB, seq=seq) == (Status.OK, b"%d" % seq)
        await client.call(b"-1")
        assert refuses(node)


async def test_a_node_looks_at_freed_memory_while_it_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "LOOK_S", 0.0)  # these commands are little work
    async with Cluster(tmp_path, nodes=1) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        looks: list[bool] = []
        monkeypatch.setattr(node.memory, "freed", lambda: looks.append(node.group.applier.is_midway))
        for seq in range(1, 6):
            await client.call(b"+1", seq=seq)
        assert any(looks)


async def test_a_leader_hears_that_a_follower_is_short(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=3) as cluster:
        leader = await cluster.wait_leader()
        follower = cluster.followers()[0]
        short(cluster, [follower.name])
        await wait_until(lambda: refuses(leader), "the leader refuses")
        assert follower.name in leader.memory.status()["refuses"]
        short(cluster, [follower.name], 10 * MIB)
        await wait_until(lambda: not refuses(leader), "the leader takes commands again")


async def test_disk_and_memory_may_both_be_short_and_either_alone_refuses(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1) as cluster:
        node = cluster.nodes["n1"]
        node.refuse(DiskFull, DiskFull("d"), True)
        node.refuse(MemoryFull, MemoryFull("m"), False)
        assert refuses(node) and not node.clients.takes_transient
        node.refuse(MemoryFull, None, True)
        assert refuses(node) and node.clients.takes_transient
        node.refuse(DiskFull, None, True)
        assert not refuses(node)


async def test_the_estimate_of_a_node_holds_what_waits_on_its_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Cluster(tmp_path, nodes=3) as cluster:
        node = await cluster.wait_leader()
        before = node.memory_estimate().total_bytes
        link = next(iter(node._peering._outgoing.values()))
        assert link._connection is not None
        monkeypatch.setattr(link._connection, "buffered", lambda: 50 * MIB)
        incoming = next(iter(node._peering._incoming))
        list(incoming._reader.cut((3 * MIB).to_bytes(4, "little") + bytes(2 * MIB)))
        grown = node.memory_estimate().total_bytes - before
        assert 51 * MIB < grown < 53 * MIB


async def test_the_estimate_of_a_node_holds_its_state_its_log_and_its_replies(tmp_path: Path) -> None:
    async with Cluster(tmp_path, nodes=1, machine="heap", limits=Limits(session_window=100)) as cluster:
        client, node = await cluster.client(), cluster.nodes["n1"]
        await client.call(broker.encode(broker.CreateTopic("jobs")), seq=1)
        before = node.memory_estimate()
        assert before.has_state
        for seq in range(2, 52):
            await client.call(broker.encode(broker.Enqueue("jobs", broker.NewMessage(b"x" * 10_000))), seq=seq)
        grown = node.memory_estimate().total_bytes - before.total_bytes
        assert 1_500_000 < grown < 1_600_000, "state, the end of the log, and the storage, which is in memory here"
        assert 50 * 200 < node.group.sessions.reply_bytes < 50 * 300
        await client.call(broker.encode(broker.Purge("jobs")), seq=52, confirmed=51)
        assert node.group.sessions.reply_bytes < 2 * 300
