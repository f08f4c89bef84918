"""Constants that decide replicated behaviour: nodes that differ in one refuse each other."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.support.constants import int_constants
from tests.support.nodes import Cluster

from disheap.config.node_config import NodeConfig
from disheap.errors import WrongCluster
from disheap.kernel.types import NodeId
from disheap.protocol import frames, handshake
from disheap.protocol.frames import Kind
from disheap.protocol.peers import PeerHello
from disheap.runtime import tuning
from disheap.runtime.hosted_replica import Replica
from disheap.runtime.state import session_table, sessions
from disheap_heap.constants import CONSTANTS
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HeapSettings

DECIDES_NOTHING = {"COMMANDS_AT_ONCE", "DETACHED_AT_ONCE", "DISCARDED_AT_ONCE", "SESSION_BYTES"}
"""They decide when the loop has its turn, or estimate memory, and nothing that a replica does."""


def test_every_constant_of_sessions_is_in_the_digest_or_decides_nothing() -> None:
    constants = int_constants(sessions, session_table)
    assert {name: value for name, value in constants.items() if name not in DECIDES_NOTHING} == sessions.DECIDES_REPLIES
    assert constants.keys() >= DECIDES_NOTHING


@pytest.mark.parametrize("name", sessions.DECIDES_REPLIES)
def test_nodes_with_another_constant_have_another_digest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = NodeConfig(name="n1", alone=True)
    before = tuning.shared_settings_digest(config, HeapSettings())
    monkeypatch.setitem(sessions.DECIDES_REPLIES, name, 1)
    assert tuning.shared_settings_digest(config, HeapSettings()) != before


@pytest.mark.parametrize("name", CONSTANTS[1])
def test_machines_with_another_constant_have_another_digest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tuning.constants_digests(HeapMachine)
    monkeypatch.setitem(CONSTANTS[1], name, CONSTANTS[1][name] + 1)
    assert tuning.constants_digests(HeapMachine)[1] != before[1]


def describe_with(replica: Replica, digests: dict[int, str]) -> None:
    replica._description = msgspec.structs.replace(replica._description, constants_digests=digests)


@pytest.mark.parametrize(
    ("theirs", "is_refused"), [({1: "here"}, False), ({1: "there"}, True), ({1: "here", 2: "new"}, False), ({}, False)]
)
async def test_a_node_refuses_one_with_other_constants_in_a_version_of_both(
    tmp_path: Path, theirs: dict[int, str], is_refused: bool
) -> None:
    async with Cluster(tmp_path) as cluster:
        one, two = cluster.nodes["n1"]._peering, cluster.nodes["n2"]._peering
        describe_with(cluster.nodes["n1"].replicas[0], {1: "here"})
        hello = two.hello_to(NodeId(1))
        group = msgspec.structs.replace(hello.groups[0], constants_digests=theirs)
        hello = msgspec.structs.replace(hello, groups=(group,))
        if is_refused:
            with pytest.raises(WrongCluster, match="constants for machine_version 1 differ"):
                one.check_hello(hello, None)
        else:
            assert one.check_hello(hello, None) == 2


async def test_a_hello_brings_the_constants_of_each_version(tmp_path: Path) -> None:
    async with Cluster(tmp_path) as cluster:
        peering = cluster.nodes["n2"]._peering
        describe_with(cluster.nodes["n2"].replicas[0], tuning.constants_digests(HeapMachine))
        hello = peering.hello_to(NodeId(1))
        assert hello.groups[0].constants_digests.keys() == {1}
        opened = handshake.open_hello(frames.open_plain(handshake.hello(Kind.PEER_HELLO, hello)), PeerHello)[1]
        assert opened.groups[0].constants_digests == tuning.constants_digests(HeapMachine)
