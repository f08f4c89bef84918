"""`disheap.Node`: what a program with a node in it may rely on."""

from __future__ import annotations

import pytest

import disheap
from disheap.config.node_config import NodeConfig
from disheap.errors import ConfigError, NotSent, RequestTimeout, UnknownGroup
from disheap.protocol import broker

CONFIG = NodeConfig(name="n1", alone=True, storage="memory", client_listen="127.0.0.1:0", log_level="error")
CREATE = broker.encode(broker.CreateTopic("jobs"))
DESCRIBE = broker.encode(broker.DescribeTopic("jobs"))


async def every_request(node: disheap.Node, group: int = 0) -> None:
    """Each of them raises the same."""
    for request in (
        node.apply(CREATE, group=group),
        node.query(DESCRIBE, group=group),
        node.wait_for_leader(group=group),
        node.status(group=group),
    ):
        with pytest.raises((NotSent, UnknownGroup)) as raised:
            await request
        assert raised.type is (UnknownGroup if group else NotSent)


def test_a_node_has_no_public_attribute_that_its_class_does_not_have() -> None:
    node = disheap.Node(CONFIG)
    assert [name for name in vars(node) if not name.startswith("_")] == []


async def test_requests_before_the_start_or_after_the_stop_say_nothing_was_done() -> None:
    node = disheap.Node(CONFIG)
    await every_request(node)
    with pytest.raises(NotSent, match="has not been started: use `async with`"):
        node.reload()
    assert node.client_address == ""
    async with node:
        await node.wait_for_leader()
    await every_request(node)
    with pytest.raises(NotSent, match="was stopped"):
        node.reload()
    await node.stop()


async def test_a_node_is_started_once() -> None:
    async with disheap.Node(CONFIG) as node:
        await node.wait_for_leader()
        with pytest.raises(RuntimeError, match=r"make another disheap\.Node"):
            await node.start()
        await node.apply(CREATE)
    with pytest.raises(RuntimeError, match="was started before"):
        await node.start()


async def test_a_group_that_the_node_does_not_host_is_refused() -> None:
    async with disheap.Node(CONFIG) as node:
        await every_request(node, group=1)


async def test_a_command_out_of_time_says_that_its_outcome_is_unknown() -> None:
    async with disheap.Node(CONFIG) as node:
        await node.wait_for_leader()
        with pytest.raises(RequestTimeout, match="the outcome is unknown"):
            await node.apply(CREATE, timeout_s=0)
        with pytest.raises(RequestTimeout, match="no quorum answered within 0 s"):
            await node.query(DESCRIBE, timeout_s=0)
        await node.apply(CREATE)
        assert broker.decode_reply.decode(await node.query(DESCRIBE)).ready == 0


async def test_a_node_that_cannot_start_leaves_nothing_and_says_so() -> None:
    node = disheap.Node(NodeConfig(name="n1", alone=True, storage="memory", client_listen="n1"))
    with pytest.raises(ConfigError):
        await node.start()
    await every_request(node)
