"""The asyncio client, against a node of wax over the transport `inproc`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

import disheap
from disheap.client.api.asynchronous import Client
from disheap.client.core import keepalive
from disheap.client.core.session import State
from disheap.client.core.url import BrokerUrl
from disheap.client.io.asyncio_driver import Driver
from disheap.client.io.dialing import open_transport
from disheap.errors import (
    ConfigError,
    ConnectionLost,
    LeaseLost,
    MalformedFrame,
    NotSent,
    OutcomeUnknown,
    RequestTimeout,
    SessionExpired,
    UrlError,
    WindowExceeded,
    WrongCluster,
)
from disheap.protocol import broker, frames
from disheap.protocol.broker import NewMessage
from disheap.protocol.frames import Kind

from .fake_node import FakeCluster, FakeReceiver, serve


class Wax:
    """One node of wax on the running loop."""

    def __init__(self, cluster: FakeCluster, listener: Any, connections: list[FakeReceiver]) -> None:
        self.cluster, self.listener, self.connections = cluster, listener, connections
        self.address: str = listener.address

    def drop_all(self) -> None:
        for receiver in list(self.connections):
            receiver.connection.abort()

    def expire(self) -> None:
        for number in list(self.cluster.sessions):
            self.cluster.expire(number)


def url(*addresses: str, **changes: Any) -> BrokerUrl:
    return BrokerUrl(addresses, "inproc", timeout_s=changes.pop("timeout_s", 10.0), **changes)


async def wax(address: str = "wax:0", cluster: FakeCluster | None = None) -> Wax:
    cluster = cluster or FakeCluster()
    return Wax(cluster, *await serve(cluster, open_transport(url("x")), address))


@pytest.fixture
async def node() -> AsyncIterator[Wax]:
    node = await wax()
    yield node
    node.drop_all()
    await node.listener.close()


@pytest.fixture
async def client(node: Wax) -> AsyncIterator[Client]:
    async with disheap.connect(url(node.address)) as client:
        yield client


async def until(condition: Any) -> None:
    """Turn the loop until something holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


# --- connecting ---


async def test_a_client_can_be_awaited_and_closed_twice(node: Wax) -> None:
    client = await disheap.connect(url(node.address), session_timeout_ms=5000, label="me", timeout_s=3)
    assert client.driver.session_timeout_ms == 9000
    assert await client.topic("jobs").enqueue(b"x") == 1
    await client.close()
    await client.close()
    assert node.cluster.sessions == {}
    with pytest.raises(ConnectionLost, match="closed"):
        await client.topic("jobs").enqueue(b"x")


async def test_a_bad_url_is_refused_before_anything_is_awaited() -> None:
    with pytest.raises(UrlError):
        disheap.connect("redis://h")


async def test_nobody_there_is_an_error_that_tells_what_each_address_said() -> None:
    with pytest.raises(ConnectionLost, match="nowhere:1"):
        await disheap.connect(url("nowhere:1"), timeout_s=0.05)


async def test_a_follower_sends_the_client_to_the_leader(node: Wax) -> None:
    followers = FakeCluster()
    followers.leads, followers.leader = False, node.address
    follower = await wax(cluster=followers)
    async with disheap.connect(url(follower.address)) as client:
        assert await client.topic("jobs").enqueue(b"x") == 1
    assert followers.sessions == {}
    await follower.listener.close()


async def test_an_observer_hears_a_follower_out(node: Wax) -> None:
    node.cluster.leads = False
    async with disheap.connect(url(node.address), observer=True) as client:
        assert await client.status() == {"said": {"op": "status"}}
    assert node.cluster.sessions == {}


async def test_another_cluster_ends_the_client(node: Wax) -> None:
    node.cluster.members = []
    client = await disheap.connect(url(node.address))
    node.cluster.cluster_id = "clay"
    node.drop_all()
    with pytest.raises(ConnectionLost, match=r"clay|a reason"):
        await client.topic("jobs").enqueue(b"x")
    with pytest.raises(WrongCluster):
        await client.topic("jobs").enqueue(b"x")
    await client.close()


class Stranger:
    """Speaks first, and not our protocol."""

    def connection_made(self, connection: Any) -> None:
        connection.write(frames.plain(Kind.HELLO))

    def data_received(self, data: bytes) -> None: ...

    def writing_paused(self) -> None: ...

    def writing_resumed(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None: ...


async def test_a_wrong_address_among_others_does_not_end_a_client(node: Wax) -> None:
    listener = await open_transport(url("x")).listen("stranger:0", Stranger)
    for seed in range(4):
        both = url(listener.address, node.address)
        driver = Driver(both, open_transport(both), generator=random.Random(seed))
        await driver.open()
        await driver.close()
    await listener.close()


async def test_when_every_address_is_wrong_the_error_says_what_each_said() -> None:
    listeners = [await open_transport(url("x")).listen(f"stranger{n}:0", Stranger) for n in range(2)]
    with pytest.raises(MalformedFrame) as caught:
        await disheap.connect(url(*(listener.address for listener in listeners)))
    assert all(f"{listener.address}: the node" in str(caught.value) for listener in listeners)
    for listener in listeners:
        await listener.close()


async def test_an_address_that_a_node_names_and_that_is_none_does_not_end_a_client(node: Wax) -> None:
    followers = FakeCluster()
    followers.leads, followers.leader = False, "no address"
    follower = await wax("follower:0", followers)
    for seed in range(4):
        both = url(follower.address, node.address)
        driver = Driver(both, NoSuchAddress(open_transport(both)), generator=random.Random(seed))
        await driver.open()
        await driver.close()
    await follower.listener.close()


class NoSuchAddress:
    """A transport that refuses one address as the transport `tcp` does."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def connect(self, address: str, receiver: Any, timeout_s: float) -> None:
        if address == "no address":
            raise ConfigError(f"{address!r} is not an address")
        await self._inner.connect(address, receiver, timeout_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


# --- commands ---


async def test_gathered_enqueues_go_out_in_one_write_and_in_order(node: Wax, client: Client) -> None:
    chunks: list[int] = []
    receiver = node.connections[0]
    receive = receiver.peer.receive
    receiver.peer.receive = lambda data: (chunks.append(len(data)), receive(data))[1]  # type: ignore[method-assign]
    topic = client.topic("jobs")
    assert await asyncio.gather(*(topic.enqueue(b"%d" % n) for n in range(20))) == list(range(1, 21))
    assert len(chunks) == 1


async def test_more_than_the_window_waits_its_turn(node: Wax, client: Client) -> None:
    topic = client.topic("jobs")
    many = 5 * node.cluster.window
    assert sorted(await asyncio.gather(*(topic.enqueue(b"x") for _ in range(many)))) == list(range(1, many + 1))


async def test_the_lean_path_refuses_beyond_the_window(node: Wax, client: Client) -> None:
    topic = client.topic("jobs")
    futures = [topic.enqueue_nowait(b"x") for _ in range(node.cluster.window)]
    with pytest.raises(WindowExceeded):
        topic.enqueue_nowait(b"x")
    await client.room()
    futures.append(topic.enqueue_nowait(b"x"))
    assert await asyncio.gather(*futures) == list(range(1, node.cluster.window + 2))


async def test_a_lost_reply_is_given_by_the_next_connection(node: Wax, client: Client) -> None:
    node.cluster.hold_replies = True
    future = client.topic("jobs").enqueue_nowait(b"x")
    await until(lambda: node.cluster.applied)
    node.cluster.hold_replies = False
    node.drop_all()
    assert await future == 1
    assert len(node.cluster.applied) == 1


async def test_requests_wait_while_there_is_no_leader(node: Wax, client: Client) -> None:
    node.cluster.leads = False
    node.drop_all()
    future = client.topic("jobs").enqueue_nowait(b"x")
    await until(lambda: len(node.cluster.hellos) > 3)
    assert not future.done()
    node.cluster.leads = True
    assert await future == 1


async def test_a_goodbye_is_followed_at_once(node: Wax, client: Client) -> None:
    other = await wax(cluster=node.cluster)
    receiver = node.connections[0]
    receiver.say(receiver.peer.goodbye("not-leader", other.address))
    assert await client.topic("jobs").enqueue(b"x") == 1
    assert len(other.connections) == 1
    other.drop_all()
    await other.listener.close()


async def test_an_overloaded_node_is_asked_again(node: Wax, client: Client) -> None:
    node.cluster.overloaded = 3
    assert await client.topic("jobs").enqueue(b"x") == 1


async def test_a_timeout_of_ones_own_leaves_the_command_under_way(node: Wax, client: Client) -> None:
    node.cluster.hold_replies = True
    with pytest.raises(RequestTimeout):
        await client.topic("jobs").enqueue(b"x", timeout_s=0.01)
    assert client.driver.unanswered == 1
    node.cluster.hold_replies = False
    receiver = node.connections[0]
    receiver.say(receiver.peer.release())
    await until(lambda: client.driver.unanswered == 0)


async def test_what_did_not_leave_in_time_is_taken_back_and_never_carried_out(node: Wax, client: Client) -> None:
    jobs = client.topic("jobs")
    await jobs.enqueue(b"before")
    node.cluster.leads = False
    node.drop_all()
    await until(lambda: client.driver._session.state is not State.READY)
    with pytest.raises(NotSent, match="No node takes it"):
        await jobs.enqueue(b"ghost", timeout_s=0.01)
    node.cluster.leads = True
    assert await jobs.enqueue(b"after") == 2
    assert [command.message.payload for _, _, command in node.cluster.applied] == [b"before", b"after"]


async def test_the_default_timeout_is_swept(node: Wax, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "CHECK_EVERY_S", 0.01)
    async with disheap.connect(url(node.address), timeout_s=0.02) as client:
        node.cluster.hold_replies = True
        with pytest.raises(RequestTimeout):
            await client.topic("jobs").enqueue(b"x")
        node.cluster.hold_replies = False


async def test_a_cancelled_request_is_forgotten_quietly(node: Wax, client: Client) -> None:
    node.cluster.hold_replies = True
    task = asyncio.ensure_future(client.topic("jobs").enqueue(b"x"))
    await until(lambda: node.cluster.applied)
    task.cancel()
    node.cluster.hold_replies = False
    receiver = node.connections[0]
    receiver.say(receiver.peer.release())
    assert await client.topic("jobs").enqueue(b"y") == 2


async def test_a_silent_node_is_left(node: Wax, client: Client) -> None:
    driver = client.driver
    link = driver._channel
    assert link is not None
    driver._check(driver._connected_at)
    now = driver._connected_at + driver._keepalive.ping_every_s
    driver._check(now)
    for number in range(1, 4):
        driver._check(now + number * 0.25)
    assert not link.gone.done(), "it was asked a moment ago"
    said: list[bytes] = []
    assert link.connection is not None
    link.connection.write = said.append  # type: ignore[method-assign,assignment]
    driver._check(now + 1.0)
    assert link.gone.done()
    assert [frame[4] for frame in said] == [Kind.GOODBYE], "the node hears that the session goes on elsewhere"
    assert await client.topic("jobs").enqueue(b"x") == 1


async def test_a_loop_that_was_busy_does_not_take_its_own_silence_for_the_nodes(node: Wax, client: Client) -> None:
    driver = client.driver
    link = driver._channel
    assert link is not None
    driver._check(driver._connected_at)
    now = driver._connected_at + driver._keepalive.ping_every_s
    driver._check(now)
    driver._check(now + 10.0)
    assert not link.gone.done()


async def test_a_ping_goes_out_when_nothing_was_heard_for_a_while(node: Wax, client: Client) -> None:
    driver = client.driver
    link = driver._channel
    assert link is not None
    driver._check(driver._connected_at + 0.1)
    driver._check(driver._connected_at + 0.2)
    await asyncio.sleep(0)
    assert node.cluster.pings == 0
    driver._check(driver._connected_at + 0.2 + driver._keepalive.ping_every_s)
    await until(lambda: node.cluster.pings == 1)


async def test_whoever_waits_hears_of_the_end(node: Wax) -> None:
    client = await disheap.connect(url(node.address))
    node.cluster.hold_replies = True
    future = client.topic("jobs").enqueue_nowait(b"x")
    consumer = client.topic("jobs").consume()
    taking = asyncio.ensure_future(anext(consumer))
    await until(lambda: len(node.cluster.applied) == 2)
    await client.driver.close(end_session=False)
    with pytest.raises(ConnectionLost):
        await future
    with pytest.raises(ConnectionLost):
        await taking
    node.cluster.hold_replies = False


# --- deliveries ---


async def test_a_delivery_is_acked_on_success_and_given_back_on_an_exception(client: Client) -> None:
    topic = client.topic("jobs")
    assert list(await topic.enqueue_many([b"a", NewMessage(b"b", 7)], priority=1)) == [1, 2]
    first, second = await topic.pop(2)
    assert (first.payload, first.priority, first.attempts) == (b"b", 7, 1)
    async with first:
        pass
    with pytest.raises(ZeroDivisionError):
        async with second:
            raise ZeroDivisionError
    (again,) = await topic.pop(1, 1000)
    assert (again.id, again.attempts) == (second.id, 2)
    await again.extend(500)
    await again.nack()
    with pytest.raises(LeaseLost):
        await again.ack()


async def test_acks_of_one_turn_go_as_one_command(node: Wax, client: Client) -> None:
    topic = client.topic("jobs")
    await topic.enqueue_many([b"x"] * 10)
    deliveries = await topic.pop(10)
    await asyncio.gather(*(delivery.ack() for delivery in deliveries))
    acks = [command for _, _, command in node.cluster.applied if isinstance(command, broker.Ack)]
    assert [len(ack.tokens) for ack in acks] == [10]


async def test_a_stale_lease_among_many_acks_is_told_to_its_owner_alone(node: Wax, client: Client) -> None:
    topic = client.topic("jobs")
    await topic.enqueue_many([b"a", b"b"])
    first, second = await topic.pop(2)
    session = node.cluster.sessions[next(iter(node.cluster.sessions))]
    del session.leases[first.token]
    results = await asyncio.gather(first.ack(), second.ack(), return_exceptions=True)
    assert isinstance(results[0], LeaseLost) and results[1] is None


async def test_a_consumer_iterates_under_its_credit(node: Wax, client: Client) -> None:
    topic = client.topic("jobs")
    await topic.enqueue_many([b"%d" % n for n in range(9)])
    got = []
    async with topic.consume(credit=3) as consumer:
        async for delivery in consumer:
            session = node.cluster.sessions[next(iter(node.cluster.sessions))]
            assert len(session.leases) <= 3
            async with delivery:
                got.append(delivery.payload)
            if len(got) == 9:
                break
    assert got == [b"%d" % n for n in range(9)]


async def test_leaving_a_consumer_gives_back_what_was_not_taken(node: Wax, client: Client) -> None:
    topic = client.topic("jobs")
    await topic.enqueue_many([b"a", b"b", b"c"])
    async with topic.consume() as consumer:
        delivery = await anext(consumer)
    await until(lambda: [push.payload for push in node.cluster.topics["jobs"]] == [b"b", b"c"])
    await delivery.ack()  # what was taken keeps its lease


async def test_a_consumer_ends_with_its_topic(client: Client) -> None:
    consumer = client.topic("jobs").consume()
    async with consumer:
        await client.delete_topic("jobs")
        assert [delivery async for delivery in consumer] == []
    assert consumer.reason == "the topic was deleted"


async def test_a_consumer_outlives_its_connection(node: Wax, client: Client) -> None:
    topic = client.topic("jobs")
    async with topic.consume() as consumer:
        node.drop_all()
        await topic.enqueue(b"x")
        delivery = await anext(consumer)
        await delivery.ack()
    assert delivery.payload == b"x"


async def test_a_lapsed_session_ends_consumers_and_loses_leases(node: Wax, client: Client) -> None:
    topic = client.topic("jobs")
    consumer = topic.consume()
    await topic.enqueue(b"x")
    delivery = await anext(consumer)
    node.expire()
    node.drop_all()
    with pytest.raises(SessionExpired):
        await anext(consumer)
    with pytest.raises(LeaseLost):
        await delivery.ack()
    assert await topic.enqueue(b"y") == 3


async def test_a_command_in_flight_when_the_session_lapsed_has_an_unknown_outcome(node: Wax, client: Client) -> None:
    node.cluster.hold_replies = True
    future = client.topic("jobs").enqueue_nowait(b"x")
    await until(lambda: node.cluster.applied)
    node.cluster.hold_replies = False
    node.expire()
    node.drop_all()
    with pytest.raises(OutcomeUnknown):
        await future


async def test_a_cancelled_pop_gives_back_what_had_come(node: Wax, client: Client) -> None:
    topic = client.topic("jobs")
    await topic.enqueue(b"x")
    popping = asyncio.ensure_future(topic.pop(2, 60_000))
    await until(lambda: any(isinstance(command, broker.Pop) for _, _, command in node.cluster.applied))
    await until(lambda: client.driver.unanswered == 0)
    await asyncio.sleep(0)
    popping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await popping
    await until(lambda: [push.payload for push in node.cluster.topics["jobs"]] == [b"x"])
    await until(lambda: not node.cluster.sessions[next(iter(node.cluster.sessions))].tickets)


async def test_a_subscription_cancelled_before_its_reply_is_undone_at_the_node(node: Wax, client: Client) -> None:
    await client.topic("jobs").enqueue(b"x")
    node.cluster.hold_replies = True
    taking = asyncio.ensure_future(anext(client.topic("jobs").consume()))
    await until(lambda: any(isinstance(command, broker.Subscribe) for _, _, command in node.cluster.applied))
    taking.cancel()
    node.cluster.hold_replies = False
    receiver = node.connections[0]
    await asyncio.sleep(0)
    receiver.say(receiver.peer.release())
    session = node.cluster.sessions[next(iter(node.cluster.sessions))]
    await until(lambda: not session.consumers and not session.leases)
    assert [push.payload for push in node.cluster.topics["jobs"]] == [b"x"]


async def test_pushes_before_their_reply_are_not_lost(node: Wax, client: Client) -> None:
    node.cluster.hold_replies = True
    popping = asyncio.ensure_future(client.topic("jobs").pop(1, 60_000))
    await until(lambda: node.cluster.applied)
    receiver = node.connections[0]
    reply = receiver.peer.release()
    ticket = broker.decode_reply.decode(frames.open_reply(reply)[3])
    assert isinstance(ticket, broker.Subscribed)
    push = frames.push(1, broker.encode(broker.Deliver(ticket.consumer, 9, 1, 0, 5, b"early")))
    done = frames.push(1, broker.encode(broker.PopDone(ticket.consumer, 1)))
    receiver.say(push + reply + done)
    node.cluster.hold_replies = False
    (delivery,) = await popping
    assert delivery.payload == b"early"


async def test_topics_exchanges_and_the_cluster_have_their_words(client: Client) -> None:
    topic = await client.create_topic("jobs", mode="min")
    await topic.enqueue(b"a", 3)
    assert (await topic.stats()).ready == 1
    assert [message.payload for message in await topic.peek(5)] == [b"a"]
    assert await client.topics() == []
    assert (await client.stats()).topics == 1
    assert await client.publish("x", "k", b"p") == 1
    await client.create_exchange("x", kind="fanout")
    await client.bind("x", "jobs")
    assert (await client.exchanges("x")).exchanges == [("x", "fanout")]
    await client.unbind("x", "jobs")
    await client.delete_exchange("x")
    assert await client.transfer("n2") == {"leader": "n2"}
    assert await client.call(b"\xc1mine") == b"echo \xc1mine"
    assert await client.send(broker.Bind("x", "jobs")) == broker.Done()


@pytest.mark.parametrize("asked_for", ["wick", ""])
async def test_a_transfer_that_ends_the_connection_is_found_out_afterwards(
    node: Wax, client: Client, asked_for: str
) -> None:
    node.cluster.hands_over_to = "wick"
    assert await client.transfer(asked_for) == {"leader": "wick"}


async def test_a_transfer_after_which_another_leads_is_unknown(node: Wax, client: Client) -> None:
    node.cluster.hands_over_to = "wick"
    with pytest.raises(OutcomeUnknown, match="wick leads, and not tallow"):
        await client.transfer("tallow")


async def test_a_window_that_stays_full_is_waited_for_no_longer_than_was_asked_for() -> None:
    """Commands that have timed out keep their places: a cluster without a leader fills the window."""
    node = await wax()
    node.cluster.window = 2
    async with disheap.connect(url(node.address, timeout_s=0.3)) as client:
        topic = await client.create_topic("jobs")
        node.cluster.hold_replies = True
        late = await asyncio.gather(*(topic.enqueue(b"x") for _ in range(2)), return_exceptions=True)
        assert all(isinstance(error, RequestTimeout) for error in late)
        async with asyncio.timeout(10):
            with pytest.raises(RequestTimeout, match="window of 2"):
                await topic.enqueue(b"y")
        node.cluster.hold_replies = False


async def test_a_consumer_ends_when_nothing_comes_for_as_long_as_was_said(node: Wax, client: Client) -> None:
    topic = client.topic("jobs")
    await topic.enqueue(b"a")
    got = []
    async for delivery in topic.consume(idle_s=0.05):
        got.append(delivery.payload)
        await delivery.ack()
    assert got == [b"a"]
    assert not any(session.consumers for session in node.cluster.sessions.values())


async def test_a_consumer_whose_session_has_lapsed_is_at_its_end(node: Wax, client: Client) -> None:
    consumer = client.topic("jobs").consume()
    await client.topic("jobs").enqueue(b"a")
    await anext(consumer)
    node.expire()
    node.drop_all()
    with pytest.raises(SessionExpired):
        await anext(consumer)
    with pytest.raises(StopAsyncIteration):
        await anext(consumer)


async def test_a_consumer_that_is_closed_while_it_is_opened_takes_nothing(node: Wax, client: Client) -> None:
    consumer = (await client.create_topic("jobs")).consume()
    first = asyncio.ensure_future(consumer.__anext__())
    await asyncio.sleep(0)
    await consumer.close()
    with pytest.raises(StopAsyncIteration):
        await first
    await until(lambda: not any(session.consumers for session in node.cluster.sessions.values()))


async def test_an_ack_before_the_connection_broke_holds_when_the_client_closes(node: Wax) -> None:
    async with disheap.connect(url(node.address)) as client:
        topic = await client.create_topic("jobs")
        await topic.enqueue(b"a")
        (delivery,) = await topic.pop()
        delivery.ack_nowait()
        node.drop_all()
        await until(lambda: client.driver._channel is None)
    assert [command for _, _, command in node.cluster.applied if isinstance(command, broker.Ack)]
    assert not node.cluster.sessions
