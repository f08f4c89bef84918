"""Three nodes with three groups whose machine forwards. What one group sends to another arrives once and in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from tests.support.nodes import Cluster
from tests.support.relay import Relay
from tests.support.wire import WireClient, wait_until

from disheap.errors import DisheapError
from disheap.kernel.types import NodeId
from disheap.protocol import forwarding, frames
from disheap.protocol.forwarding import Forward, ForwardAnswer
from disheap.protocol.frames import Fault, Kind, Status
from disheap.protocol.handshake import SUPPORTED
from disheap.runtime.replica.lifecycle import State
from disheap.testing.inspected import InspectedMember

GROUPS = (0, 1, 2)
WORDS = 150


def relays(cluster: Cluster, machines: tuple[str, ...] = ("relay",) * 3) -> Cluster:
    for name, config in cluster.configs.items():
        cluster.configs[name] = msgspec.structs.replace(config, groups=len(machines), group_machines=machines)
    return cluster


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Node n1 leads group 0, n2 group 1 and n3 group 2."""
    async with relays(Cluster(tmp_path, storage="file", machine="relay")) as cluster:
        for group, name in zip(GROUPS, cluster.configs, strict=True):
            await lead(cluster, name, group)
        yield cluster


def leader(cluster: Cluster, group: int) -> InspectedMember | None:
    """Who leads the group and has committed in its term."""
    for node in cluster.nodes.values():
        found = node.replicas[group]._group if node.replicas else None  # None while it starts
        if found is not None and found.leads and found.applied.term == found.raft.term:
            return node
    return None


async def led(cluster: Cluster, group: int) -> InspectedMember:
    await wait_until(lambda: leader(cluster, group) is not None, f"group {group} has a leader")
    found = leader(cluster, group)
    assert found is not None
    return found


async def lead(cluster: Cluster, name: str, group: int) -> None:
    target = NodeId(list(cluster.configs).index(name) + 1)
    for _ in range(20):
        before = await led(cluster, group)
        if before.name == name:
            return
        before.replicas[group].group.transfer(target)
        await before.replicas[group].wait_for_transfer()  # which may be given up
    raise AssertionError(f"{name} does not lead group {group}")


def machine(node: InspectedMember, group: int) -> Relay:
    found = node.replicas[group].group.sessions.machine
    assert isinstance(found, Relay)
    return found


async def put(cluster: Cluster, source: int, target: int, word: str) -> int:
    """The number of the word, after as many tries as it takes; every try is another word."""
    for attempt in range(200):
        node = leader(cluster, source)
        try:
            if node is not None:
                return int(await node.apply(b">%d:%s.%d" % (target, word.encode(), attempt), 2.0, group=source))
        except DisheapError:
            pass
        await asyncio.sleep(0.02)
    raise AssertionError(f"group {source} takes no word")


async def wait_empty(cluster: Cluster) -> None:
    """Every word was taken, and every outbox is empty, on all nodes."""

    def is_empty() -> bool:
        nodes = cluster.nodes.values()
        return all(leader(cluster, group) is not None for group in GROUPS) and not any(
            machine(node, group).outboxes for node in nodes for group in GROUPS
        )

    await wait_until(is_empty, "every outbox is empty", patience_s=30)


async def check(cluster: Cluster, source: int, target: int, words: int) -> None:
    """Nothing lost, nothing doubled, in order."""
    await wait_empty(cluster)
    sender, receiver = machine(await led(cluster, source), source), machine(await led(cluster, target), target)
    taken = receiver.taken[source]
    assert len(taken) == sender.last[target], "a word is lost, or one came twice"
    assert len(set(taken)) == len(taken), "a word came twice"
    order = [int(word.partition(".")[0]) for word in taken]
    assert order == sorted(order), "they came in another order"
    assert set(order) == set(range(words)), "a promised word is lost"


async def test_messages_go_to_leaders_on_other_nodes_and_on_this_one(cluster: Cluster) -> None:
    await lead(cluster, "n1", 2)  # groups 0 and 2 are led by one node, group 1 by another
    for number in range(30):
        for target in (1, 2):
            await put(cluster, 0, target, str(number))
    await check(cluster, 0, 1, 30)
    await check(cluster, 0, 2, 30)
    for node in cluster.nodes.values():
        assert not node._forwarding._sent
        assert all(not replica.node_commands._waiting for replica in node.replicas)


@pytest.mark.parametrize("moved", ["source", "target"])
async def test_nothing_is_lost_or_doubled_when_leaders_move_and_die(cluster: Cluster, moved: str) -> None:
    group = 0 if moved == "source" else 1
    ended = asyncio.Event()

    async def disturb() -> None:
        for name in ("n3", "n2", "n1", "n3"):
            await lead(cluster, name, group)
        name = (await led(cluster, group)).name
        await cluster.restart(name)
        ended.set()

    disturbing = asyncio.create_task(disturb())
    number = 0
    while number < WORDS or not ended.is_set():
        await put(cluster, 0, 1, str(number))
        number += 1
        if number > WORDS:
            await asyncio.sleep(0.01)
    await disturbing
    await check(cluster, 0, 1, number)


async def test_nothing_is_left_behind_by_a_leader_that_moves_or_stops(cluster: Cluster) -> None:
    before = await led(cluster, 0)
    await put(cluster, 0, 9, "for a group that does not exist")
    forwarder = before.replicas[0].forwarder
    await wait_until(lambda: bool(forwarder._targets), "it is sent")
    await lead(cluster, "n2", 0)
    await wait_until(lambda: not before.replicas[0].group.leads, "n1 knows")
    assert not forwarder._targets and not forwarder._term
    after = await led(cluster, 0)
    router, told = after._forwarding, []
    router.send(0, 2, 1, b"<0:1:a", told.append)
    after.replicas[1].node_commands.propose(b"~1:1", lambda error: told.append(str(error)))
    await cluster.stop("n2")
    assert not router._sent and not any(one.node_commands._waiting for one in after.replicas)
    assert all(not one.forwarder._targets for one in after.replicas)


async def test_a_client_cannot_pass_for_a_group(cluster: Cluster) -> None:
    node = await led(cluster, 1)
    client = await WireClient.opened(cluster.transport, node.client_address, 60_000, group=1)
    status, body = await client.call(b"<0:1:forged")
    assert status == Status.ERROR and msgspec.msgpack.decode(body, type=Fault).code == "invalid-argument"
    assert machine(node, 1).taken == {}


async def test_a_client_cannot_send_a_command_of_a_node(cluster: Cluster) -> None:
    node = await led(cluster, 1)
    client = await WireClient.opened(cluster.transport, node.client_address, 60_000, group=1)
    client.connection.write(frames.envelope(Kind.NODE_COMMAND, 0, 0, 7, 0, b"<0:1:forged"))
    assert (await client.goodbye()).code == "malformed-frame"
    assert machine(node, 1).taken == {}


async def test_a_group_that_is_led_by_nobody_is_waited_for_and_the_status_says_so(cluster: Cluster) -> None:
    await put(cluster, 0, 1, "0")
    await check(cluster, 0, 1, 1)
    source = await led(cluster, 0)
    for node in cluster.nodes.values():
        node.replicas[1].quarantine("for the test")
    await put(cluster, 0, 1, "1")

    async def reason() -> str:
        (row,) = (await source.status())["forwarding"]
        assert (row["group"], row["waiting"]) == (1, 1)
        return str(row["reason"])

    await until(reason, lambda said: "does not lead" in said or "no leader" in said)
    assert (await source.status(group=2))["forwarding"] == []


async def until(ask: Callable[[], object], holds: Callable[[str], bool]) -> str:
    for _ in range(1000):
        said = await ask()  # type: ignore[misc]
        if holds(said):
            return str(said)
        await asyncio.sleep(0.01)
    raise AssertionError(f"it says {said!r}")


async def test_the_target_is_found_when_the_senders_own_replica_is_in_quarantine(cluster: Cluster) -> None:
    source = await led(cluster, 0)
    source.replicas[1].quarantine("for the test")
    for number in range(20):
        await put(cluster, 0, 1, str(number))
    await wait_until(lambda: not machine(source, 0).outboxes, "every word was taken", patience_s=30)
    order = [int(word.partition(".")[0]) for word in machine(await led(cluster, 1), 1).taken[0]]
    assert order == list(range(20))


async def test_a_quarantined_source_sends_nothing_more_and_its_successor_goes_on(cluster: Cluster) -> None:
    before = await led(cluster, 0)
    for number in range(10):
        await put(cluster, 0, 1, str(number))
    before.replicas[0].quarantine("for the test")
    forwarder = before.replicas[0].forwarder
    assert not forwarder._targets and not forwarder._term
    await put(cluster, 0, 1, "10")
    others = [node for node in cluster.nodes.values() if node is not before]
    await wait_until(lambda: not any(machine(node, 0).outboxes for node in others), "every word was taken")
    order = [int(word.partition(".")[0]) for word in machine(await led(cluster, 1), 1).taken[0]]
    assert order == sorted(order) and set(order) == set(range(11))


async def test_a_group_that_does_not_exist_stops_its_own_messages_only(cluster: Cluster) -> None:
    source = await led(cluster, 0)
    await put(cluster, 0, 9, "lost")
    await put(cluster, 0, 1, "0")
    await wait_until(lambda: list(machine(source, 0).waiting()) == [9], "the other word was taken")
    rows = (await source.status())["forwarding"]
    assert rows == [{"group": 9, "waiting": 1, "reason": "the cluster has no group 9"}]


async def test_a_machine_without_the_power_is_sent_nothing(tmp_path: Path) -> None:
    async with relays(Cluster(tmp_path, machine="relay"), ("relay", "counter")) as cluster:
        await lead(cluster, "n2", 1)
        source = await led(cluster, 0)
        await put(cluster, 0, 1, "0")

        async def reason() -> str:
            (row,) = (await source.status())["forwarding"]
            return str(row["reason"])

        assert "'counter' lacks the power Forwarding" in await until(reason, bool)


async def test_a_message_too_large_is_not_sent_and_the_status_says_so(cluster: Cluster) -> None:
    source = await led(cluster, 0)
    source._forwarding._command_bytes = 50
    await put(cluster, 0, 1, "w" * 100)

    async def reason() -> str:
        (row,) = (await source.status())["forwarding"]
        return str(row["reason"])

    assert "a command has at most 50" in await until(reason, bool)


async def test_an_older_peer_is_not_sent_the_frame_and_the_status_says_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (Kind.FORWARD, Kind.FORWARD_ANSWER):
        monkeypatch.setitem(frames.PEER_FRAMES_SINCE, kind, SUPPORTED.highest + 1)
    source = await led(cluster, 0)
    await put(cluster, 0, 1, "0")

    async def reason() -> str:
        (row,) = (await source.status())["forwarding"]
        return str(row["reason"])

    assert f"messages between groups exist since version {SUPPORTED.highest + 1}" in await until(reason, bool)
    assert machine(await led(cluster, 1), 1).taken == {}
    assert all(not node.refusals() for node in cluster.nodes.values()), "a frame cost its connection"
    monkeypatch.undo()
    await check(cluster, 0, 1, 1)


async def answers_to(cluster: Cluster, message: Forward) -> list[ForwardAnswer]:
    """n1 sends a frame to n2 past its own checks."""
    sender, answers = cluster.nodes["n1"], []
    sender._forwarding.answered = lambda peer, answer: answers.append(answer)  # type: ignore[method-assign]
    assert sender._peering.send_forwarded(NodeId(2), message) == ""
    await wait_until(lambda: bool(answers), "there is an answer")
    return answers


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Forward(9, 0, 1, b"<0:1:a"), "unknown-group"),
        (Forward(1, 9, 1, b"<9:1:a"), "unknown-group"),
        (Forward(1, 1, 1, b"<1:1:a"), "invalid-argument"),
        (Forward(1, 0, 2, b"<0:2:a"), "invalid-argument"),
        (Forward(1, 0, 1, b"rubbish"), "unknown-command"),
        (Forward(2, 0, 1, b"<0:1:a"), "not-leader"),
        (Forward(1, 0, 1, b"w" * (3 << 20)), "limit-reached"),
    ],
)
async def test_a_bad_message_of_a_peer_gets_a_typed_error_and_ends_nothing(
    cluster: Cluster, message: Forward, code: str
) -> None:
    (answer,) = await answers_to(cluster, message)
    assert answer == ForwardAnswer(
        message.group, message.source, message.number, code, answer.message, 3 if code == "not-leader" else 0
    )
    node = cluster.nodes["n2"]
    assert node.lifecycle.state is State.RUNNING and machine(node, 1).taken == {}
    assert node.is_connected(NodeId(1)) and not node.refusals()


async def test_an_answer_of_another_peer_confirms_nothing(cluster: Cluster) -> None:
    """The schedule that is prevented: a member says that it took what was sent to another one."""
    router, told = cluster.nodes["n1"]._forwarding, []
    router.send(0, 1, 1, b"<0:1:a", told.append)
    router.answered(NodeId(3), ForwardAnswer(1, 0, 1))
    assert told == []
    await wait_until(lambda: told == [""], "the peer itself has answered")


async def test_a_frame_that_cannot_be_read_costs_its_connection_only(cluster: Cluster) -> None:
    link = cluster.nodes["n1"]._peering._outgoing[NodeId(2)]
    assert link._connection is not None
    link._connection.write(frames.plain(Kind.FORWARD, b"\xc1"))
    node = cluster.nodes["n2"]
    await wait_until(lambda: bool(node.refusals()), "it is refused")
    assert "a forwarded message between groups cannot be read" in node.refusals()[-1]
    await wait_until(lambda: cluster.nodes["n1"].is_connected(NodeId(2)), "they meet again")
    await put(cluster, 0, 1, "0")
    await check(cluster, 0, 1, 1)


def test_forwarded_messages_are_read_as_they_were_written() -> None:
    forward = Forward(1, 0, 7, b"word")
    assert forwarding.decode(Kind.FORWARD, forwarding.encode(forward)) == forward
    answer = ForwardAnswer(1, 0, 7, "not-leader", "it does not lead", 3)
    assert forwarding.decode(Kind.FORWARD_ANSWER, forwarding.encode(answer)) == answer
