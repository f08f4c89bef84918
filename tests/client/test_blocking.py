"""The blocking driver and `disheap.sync`, against a node of wax behind a loopback socket."""

from __future__ import annotations

import os
import random
import select
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from disheap import sync
from disheap.cli.processes.local_cluster import free_ports
from disheap.client.core import keepalive
from disheap.client.core.broker_session import SessionLost
from disheap.client.core.url import BrokerUrl
from disheap.client.io.blocking_driver import READ_FIRST_AFTER_S, BlockingClient
from disheap.errors import (
    ConfigError,
    ConnectionLost,
    LeaseLost,
    MalformedFrame,
    NotSent,
    OutcomeUnknown,
    RequestTimeout,
    SessionExpired,
    WindowExceeded,
    WrongCluster,
)
from disheap.protocol import broker, frames, handshake
from disheap.protocol.frames import Kind

from .fake_node import FakeCluster, Made, SocketNode, dial, limits_of


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def node(cluster: FakeCluster) -> Iterator[SocketNode]:
    node = SocketNode(cluster)
    yield node
    node.close()


def url(*addresses: str, **changes: Any) -> BrokerUrl:
    return BrokerUrl(addresses, timeout_s=changes.pop("timeout_s", 10.0), **changes)


@pytest.fixture
def client(node: SocketNode) -> Iterator[sync.Client]:
    with sync.connect(url(node.address), dial=dial) as client:
        yield client


def free_address() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


# --- calls ---


def test_a_call_connects_when_it_must_and_returns_the_reply(node: SocketNode) -> None:
    client = BlockingClient(url(node.address), dial=dial)
    assert client.fileno() == -1
    assert client.request(broker.Enqueue("jobs", broker.NewMessage(b"x"))) == broker.Enqueued(1)
    assert client.fileno() >= 0 and client.session_timeout_ms == 9000
    client.close()


def test_a_call_survives_a_connection_that_is_cut_and_is_applied_once(
    client: sync.Client, node: SocketNode, cluster: FakeCluster
) -> None:
    cluster.hold_replies = True
    got: list[Any] = []
    client.driver.send(broker.Enqueue("jobs", broker.NewMessage(b"x")), on_reply=got.append)
    client.driver.flush()
    with pytest.raises(RequestTimeout):
        client.driver.query(broker.GetStats(), timeout_s=0.05)
    cluster.hold_replies = False
    node.drop_all()
    assert client.topic("jobs").enqueue(b"y") == 2
    assert got == [broker.Enqueued(1)]
    assert [command.message.payload for _, _, command in cluster.applied] == [b"x", b"y"]


def test_the_first_host_that_answers_is_taken(node: SocketNode) -> None:
    with sync.connect(url(free_address(), node.address), dial=dial) as client:
        assert client.topic("jobs").enqueue(b"x") == 1


def test_nobody_there_is_an_error_that_tells_what_each_address_said() -> None:
    nowhere = free_address()
    with pytest.raises(ConnectionLost, match=f"{nowhere}.*refused"):
        sync.connect(url(nowhere, timeout_s=0.1), dial=dial)


def test_a_follower_sends_the_client_to_the_leader(node: SocketNode) -> None:
    followers = FakeCluster()
    followers.leads, followers.leader = False, node.address
    follower = SocketNode(followers)
    try:
        with sync.connect(url(follower.address), dial=dial) as client:
            assert client.topic("jobs").enqueue(b"x") == 1
    finally:
        follower.close()
    assert followers.sessions == {}


def test_another_cluster_is_refused(node: SocketNode, cluster: FakeCluster) -> None:
    cluster.members = []
    with sync.connect(url(node.address), dial=dial) as client:
        cluster.cluster_id = "clay"
        node.drop_all()
        with pytest.raises(WrongCluster):
            client.topic("jobs").enqueue(b"x")
        with pytest.raises(WrongCluster):
            client.driver.poll()


NO_NODE = b"\x03\x00\x00\x00\x63\x00\x00"


def test_a_port_that_speaks_something_else_is_a_clear_error(node: SocketNode) -> None:
    client = BlockingClient(url("x"), dial=lambda _: Made(Canned([NO_NODE])))
    with pytest.raises(MalformedFrame):
        client.request(broker.Enqueue("jobs", broker.NewMessage(b"x")))


@pytest.mark.parametrize("seed", range(4))
def test_a_wrong_address_among_others_does_not_end_a_client(node: SocketNode, seed: int) -> None:
    def dial_either(address: str) -> Made:
        return dial(address) if address == node.address else Made(Canned([NO_NODE]))

    client = BlockingClient(url("x", node.address, "y"), dial=dial_either, generator=random.Random(seed))
    assert client.request(broker.Enqueue("jobs", broker.NewMessage(b"x"))) == broker.Enqueued(1)
    client.close()


def test_when_every_address_is_wrong_the_error_says_what_each_said() -> None:
    client = BlockingClient(url("x", "y"), dial=lambda _: Made(Canned([NO_NODE])), generator=random.Random(1))
    with pytest.raises(MalformedFrame, match=r"no address is right: [xy]: the node .*; [xy]: the node "):
        client.request(broker.Enqueue("jobs", broker.NewMessage(b"x")))


def test_an_address_that_a_node_names_and_that_is_none_does_not_end_a_client(node: SocketNode) -> None:
    followers = FakeCluster()
    followers.leads, followers.leader = False, "no address"
    follower = SocketNode(followers)

    def dial_named(address: str) -> Made:
        if address == "no address":
            raise ConfigError("'no address' is not an address")
        return dial(address)

    try:
        for seed in range(4):
            both = url(follower.address, node.address)
            client = BlockingClient(both, dial=dial_named, generator=random.Random(seed))
            client.request(broker.Enqueue("jobs", broker.NewMessage(b"x")))
            client.close()
    finally:
        follower.close()


class Canned:
    """A socket that says what it was given, then nothing."""

    def __init__(self, says: list[bytes]) -> None:
        self.says = says
        self.sent: list[bytes] = []
        self.closed = False

    def send(self, data: bytes | memoryview) -> int:
        self.sent.append(bytes(data))
        return len(data)

    def recv(self, size: int) -> bytes:
        if not self.says:
            raise TimeoutError
        return self.says.pop(0)

    def setblocking(self, flag: bool) -> None: ...

    def settimeout(self, seconds: float | None) -> None: ...

    def fileno(self) -> int:
        return 99

    def close(self) -> None:
        self.closed = True


# --- time, injected ---


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, wanted: Any, seconds: float) -> None:
        self.now += seconds


def canned_node(timeout_ms: int = 9000) -> list[bytes]:
    """What a node says until a session stands."""
    welcome = handshake.Welcome("wax", 0, "n", True, "", [], "heap", 1, limits_of(1 << 16, 64))
    number = (1 << 62) + 1
    return [
        handshake.welcome(Kind.WELCOME, 2, welcome),
        frames.reply(Kind.REPLY, 0, number, 1, frames.GRANT.pack(7, timeout_ms, bytes(16))),
    ]


def test_a_ping_after_a_silence_without_an_answer_ends_the_connection() -> None:
    clock, wire = Clock(), Canned(canned_node())
    client = BlockingClient(url("n"), dial=lambda _: Made(wire), clock=clock, wait=clock.wait)
    client.connect()
    before = len(wire.sent)
    client.heartbeat()
    assert len(wire.sent) == before
    clock.now += keepalive.PING_EVERY_S
    client.heartbeat()
    assert wire.sent[-1] == frames.plain(Kind.PING)
    silent_since = clock.now
    while client.fileno() != -1:
        clock.now += client.wants_poll_in + 0.001
        client.heartbeat()
    assert wire.closed and keepalive.SILENCE_MAX_S <= clock.now - silent_since < 1.5
    assert wire.sent[-1][4] == Kind.GOODBYE, "the node hears that the session goes on elsewhere"


@pytest.mark.parametrize("end", ["abort", "close"])
def test_a_client_at_its_end_does_not_say_that_it_goes_on(end: str) -> None:
    clock, wire = Clock(), Canned(canned_node())
    client = BlockingClient(url("n"), dial=lambda _: Made(wire), clock=clock, wait=clock.wait)
    client.connect()
    client.abort() if end == "abort" else client.close(end_session=False)
    assert wire.closed and Kind.GOODBYE not in [sent[4] for sent in wire.sent]


def test_a_busy_application_does_not_take_its_own_silence_for_the_nodes() -> None:
    clock, wire = Clock(), Canned(canned_node())
    client = BlockingClient(url("n"), dial=lambda _: Made(wire), clock=clock, wait=clock.wait)
    client.connect()
    clock.now += keepalive.PING_EVERY_S
    client.heartbeat()
    clock.now += 5.0  # it called nothing
    client.heartbeat()
    assert not wire.closed


def test_a_node_that_takes_nothing_is_left_and_one_that_takes_slowly_is_not() -> None:
    class Slow(Canned):
        pieces = 40

        def send(self, data: bytes | memoryview) -> int:
            clock.now += 0.25
            if len(data) < 1000:
                return super().send(data)
            self.pieces -= 1
            if self.pieces < 0:
                raise TimeoutError
            return 1000

    clock, wire = Clock(), Slow(canned_node())
    client = BlockingClient(url("n"), dial=lambda _: Made(wire), clock=clock, wait=clock.wait)
    client.connect()
    began = clock.now
    client.send(broker.Enqueue("jobs", broker.NewMessage(b"x" * 60_000)))
    client.flush()
    assert wire.closed and 10.0 < clock.now - began < 13.0


def test_a_node_that_never_lets_the_client_in_is_left() -> None:
    clock = Clock()
    wires: list[Canned] = []

    def connect(address: str) -> Made:
        wires.append(Canned(canned_node()[:1]))
        return Made(wires[-1])

    client = BlockingClient(url("a", "b"), dial=connect, clock=clock, wait=clock.wait, generator=random.Random(1))
    client.poll()
    clock.now += keepalive.ATTACH_TIMEOUT_MAX_S + 0.1
    client.heartbeat()
    assert wires[0].closed
    client.heartbeat()
    assert len(wires) == 2


def test_a_client_that_said_nothing_for_long_attaches_again_before_it_sends() -> None:
    """Its session may have lapsed, and the node would not say so by itself."""
    clock, wires = Clock(), [Canned(canned_node()), Canned([])]
    left = iter(wires)
    client = BlockingClient(url("n"), dial=lambda _: Made(next(left)), clock=clock, wait=clock.wait)
    client.connect()
    said = len(wires[0].sent)
    clock.now += 6.1
    client.send(broker.Enqueue("jobs", broker.NewMessage(b"x")))
    client.flush()
    assert wires[0].closed and [sent[4] for sent in wires[0].sent[said:]] == [Kind.GOODBYE]
    assert wires[1].sent[0][4] == Kind.HELLO


def test_a_poll_without_a_timeout_never_waits_while_there_is_no_connection() -> None:
    clock = Clock()
    tries: list[str] = []

    def refuse(address: str) -> Made:
        tries.append(address)
        raise ConnectionRefusedError("refused")

    def never(wanted: Any, seconds: float) -> None:
        raise AssertionError("waited")

    client = BlockingClient(url("a"), dial=refuse, clock=clock, wait=never)
    assert client.poll() == []
    assert client.poll() == [] and len(tries) == 1
    assert client.wants_poll_in > 0
    clock.now += client.wants_poll_in
    client.heartbeat()
    assert len(tries) == 2


def test_the_hub_hears_of_every_change_of_the_descriptor(node: SocketNode, client: sync.Client) -> None:
    changes: list[tuple[int | None, int | None]] = []
    client.driver.on_socket_change = lambda old, new: changes.append((old, new))
    first = client.driver.fileno()
    node.drop_all()
    client.topic("jobs").enqueue(b"x")
    assert changes == [(first, None), (None, client.driver.fileno())]


# --- pipelining ---


def test_pipelined_commands_are_buffered_until_they_are_flushed(client: sync.Client, cluster: FakeCluster) -> None:
    got: list[Any] = []
    for _ in range(3):
        client.driver.send(broker.Enqueue("jobs", broker.NewMessage(b"x")), on_reply=got.append)
    assert cluster.applied == []
    client.driver.flush()
    while client.driver.unanswered:
        client.driver.poll(1.0 if not got else 0.01)
    assert got == [broker.Enqueued(1), broker.Enqueued(2), broker.Enqueued(3)]


def test_much_is_handed_over_without_a_flush(client: sync.Client, cluster: FakeCluster) -> None:
    for _ in range(40):
        client.driver.send(broker.Enqueue("jobs", broker.NewMessage(b"x" * 2000)))
    client.driver.request(broker.Enqueue("jobs", broker.NewMessage(b"last")))
    assert len(cluster.applied) == 41


def test_a_full_window_waits_for_replies_or_refuses(client: sync.Client, cluster: FakeCluster) -> None:
    for _ in range(cluster.window):
        client.driver.send(broker.Enqueue("jobs", broker.NewMessage(b"x")))
    with pytest.raises(WindowExceeded):
        client.driver.send(broker.Enqueue("jobs", broker.NewMessage(b"x")), wait=False)
    for _ in range(3 * cluster.window):
        client.driver.send(broker.Enqueue("jobs", broker.NewMessage(b"x")))
    assert client.topic("jobs").enqueue(b"last") == 4 * cluster.window + 1


def test_an_overloaded_node_is_asked_again(client: sync.Client, cluster: FakeCluster) -> None:
    cluster.overloaded = 3
    assert client.topic("jobs").enqueue(b"x") == 1
    assert cluster.overloaded == 0


def test_a_transient_command_is_not_waited_for(client: sync.Client, cluster: FakeCluster) -> None:
    client.driver.send_transient(broker.Publish("", "events", broker.NewMessage(b"x")))
    client.driver.request(broker.Enqueue("jobs", broker.NewMessage(b"x")))
    assert [command.routing_key for command in cluster.transients] == ["events"]


def test_a_transient_command_is_not_written_to_a_closed_connection(node: SocketNode, cluster: FakeCluster) -> None:
    """The reply of a Celery worker to the first `inspect ping` after a failover went there."""
    clock = Clock()
    client = BlockingClient(url(node.address), dial=dial, clock=clock)
    client.connect()
    node.drop_all()
    assert select.select([client.fileno()], [], [], 10)[0], "the end of the connection has come"
    clock.now += READ_FIRST_AFTER_S * 1.1
    client.send_transient(broker.Publish("", "events", broker.NewMessage(b"x")))
    client.connect()
    client.close(end_session=False)
    node.close()  # it has read everything then
    assert [command.routing_key for command in cluster.transients] == ["events"]


# --- pushes ---


def test_pushes_that_come_during_a_call_are_queued_for_the_next_poll(client: sync.Client) -> None:
    consumer = client.driver.request(broker.Subscribe("jobs", 10)).consumer
    client.driver.request(broker.Enqueue("jobs", broker.NewMessage(b"x")))
    client.driver.request(broker.Enqueue("jobs", broker.NewMessage(b"y")))
    assert client.driver.pending_pushes()
    assert [(push.consumer, push.payload) for push in client.driver.poll()] == [(consumer, b"x"), (consumer, b"y")]
    assert client.driver.poll() == [] and not client.driver.pending_pushes()


def test_a_hub_sees_the_descriptor_readable_and_poll_takes_the_push(client: sync.Client, node: SocketNode) -> None:
    push = broker.Deliver(5, 1, 0, 0, 5, b"x")
    node.say(frames.push(1, broker.encode(push)))
    assert select.select([client.driver.fileno()], [], [], 5)[0]
    assert client.driver.poll() == [push]


def test_a_delivery_lost_with_the_connection_comes_with_the_next(
    client: sync.Client, node: SocketNode, cluster: FakeCluster
) -> None:
    consumer = client.driver.request(broker.Subscribe("jobs", 10)).consumer
    session = cluster.sessions[next(iter(cluster.sessions))]
    cluster._back("jobs", broker.Deliver(0, 50, 0, 0, 5, b"x"))
    cluster._feed(session, "jobs")  # pushed to nobody
    node.drop_all()
    (push,) = client.driver.poll(5.0)
    assert isinstance(push, broker.Deliver) and (push.consumer, push.payload) == (consumer, b"x")
    client.driver.request(broker.Ack([(push.id, push.epoch)]))
    assert session.leases == {}


def test_a_lapsed_session_is_told_in_its_place_among_the_pushes(
    client: sync.Client, node: SocketNode, cluster: FakeCluster
) -> None:
    client.driver.request(broker.Subscribe("jobs", 10))
    client.driver.request(broker.Enqueue("jobs", broker.NewMessage(b"x")))
    (push,) = client.driver.poll()
    cluster.expire(next(iter(cluster.sessions)))
    node.drop_all()
    assert client.driver.poll(5.0) == [SessionLost()]
    assert isinstance(push, broker.Deliver) and not client.driver.holds((push.id, push.epoch))
    assert client.topic("jobs").enqueue(b"y") == 3


def test_a_command_in_flight_when_the_session_lapsed_has_an_unknown_outcome(
    client: sync.Client, node: SocketNode, cluster: FakeCluster
) -> None:
    cluster.hold_replies = True
    got: list[Any] = []
    client.driver.send(broker.Enqueue("jobs", broker.NewMessage(b"x")), on_reply=got.append)
    with pytest.raises(RequestTimeout):
        client.driver.query(broker.GetStats(), timeout_s=0.05)
    cluster.hold_replies = False
    cluster.expire(next(iter(cluster.sessions)))
    node.drop_all()
    assert client.driver.poll(5.0) == [SessionLost()]
    assert isinstance(got[0], OutcomeUnknown)
    assert client.topic("jobs").enqueue(b"y") == 2


# --- the end ---


def test_closing_ends_the_session_so_that_what_it_held_goes_back(node: SocketNode, cluster: FakeCluster) -> None:
    client = sync.connect(url(node.address), dial=dial)
    client.topic("jobs").enqueue(b"x")
    (delivery,) = client.topic("jobs").pop()
    client.close()
    client.close()
    assert cluster.sessions == {} and [push.id for push in cluster.topics["jobs"]] == [delivery.id]
    with pytest.raises(ConnectionLost, match="closed"):
        client.topic("jobs").enqueue(b"x")


def test_abort_closes_the_socket_without_a_goodbye() -> None:
    wire = Canned(canned_node())
    client = BlockingClient(url("n"), dial=lambda _: Made(wire))
    client.connect()
    said = len(wire.sent)
    client.abort()
    assert wire.closed and len(wire.sent) == said
    with pytest.raises(ConnectionLost, match="without closing"):
        client.poll()
    client.close()
    assert len(wire.sent) == said


# --- disheap.sync ---


def test_a_delivery_is_acked_on_success_and_given_back_on_an_exception(
    client: sync.Client, cluster: FakeCluster
) -> None:
    topic = client.topic("jobs")
    assert list(topic.enqueue_many([b"a", b"b"], priority=1)) == [1, 2]
    first, second = topic.pop(2)
    with first:
        assert (first.payload, first.priority, first.attempts) == (b"a", 1, 1)
    with pytest.raises(ZeroDivisionError), second:
        raise ZeroDivisionError
    (again,) = topic.pop(1, 50)
    assert (again.id, again.attempts) == (second.id, 2)


def test_settling_twice_is_a_lost_lease(client: sync.Client) -> None:
    client.topic("jobs").enqueue(b"a")
    (delivery,) = client.topic("jobs").pop()
    delivery.ack()
    with pytest.raises(LeaseLost):
        delivery.ack()
    with pytest.raises(LeaseLost):
        delivery.extend(5)


def test_a_consumer_iterates_and_gives_back_what_was_not_taken(client: sync.Client, cluster: FakeCluster) -> None:
    topic = client.topic("jobs")
    topic.enqueue_many([b"a", b"b", b"c"])
    with topic.consume(credit=2) as consumer:
        for delivery in consumer:
            with delivery:
                assert delivery.payload == b"a"
            break
    client.stats()  # the node has heard all that was said before
    assert [push.payload for push in cluster.topics["jobs"]] == [b"b", b"c"]


def test_a_consumer_ends_with_its_topic_or_when_nothing_comes(client: sync.Client) -> None:
    assert list(client.topic("jobs").consume(idle_s=0.01)) == []
    consumer = client.topic("jobs").consume()
    client.topic("jobs").enqueue(b"a")
    next(consumer).ack()
    client.delete_topic("jobs")
    assert list(consumer) == []


def test_a_consumer_raises_when_the_session_lapsed(client: sync.Client, node: SocketNode, cluster: FakeCluster) -> None:
    consumer = client.topic("jobs").consume()
    client.topic("jobs").enqueue(b"a")
    delivery = next(consumer)
    cluster.expire(next(iter(cluster.sessions)))
    node.drop_all()
    with pytest.raises(SessionExpired):
        next(consumer)
    with pytest.raises(LeaseLost):
        delivery.ack()


def test_topics_exchanges_and_the_cluster_have_their_words(client: sync.Client) -> None:
    topic = client.create_topic("jobs", mode="min")
    topic.enqueue(b"a", 3)
    assert topic.stats().ready == 1
    assert [message.payload for message in topic.peek(5)] == [b"a"]
    assert client.topics() == []
    assert client.stats().topics == 1
    assert client.publish("x", "k", b"p") == 1
    client.create_exchange("x", kind="fanout")
    client.bind("x", "jobs")
    assert client.exchanges("x").exchanges == [("x", "fanout")]
    client.unbind("x", "jobs")
    client.delete_exchange("x")
    assert client.status() == {"said": {"op": "status"}}
    assert client.transfer("n2") == {"leader": "n2"}
    assert client.call(b"\xc1mine") == b"echo \xc1mine"


@pytest.mark.parametrize("asked_for", ["wick", ""])
def test_a_transfer_that_ends_the_connection_is_found_out_afterwards(
    client: sync.Client, cluster: FakeCluster, asked_for: str
) -> None:
    cluster.hands_over_to = "wick"
    assert client.transfer(asked_for) == {"leader": "wick"}


def test_a_transfer_after_which_another_leads_is_unknown(client: sync.Client, cluster: FakeCluster) -> None:
    cluster.hands_over_to = "wick"
    with pytest.raises(OutcomeUnknown, match="wick leads, and not tallow"):
        client.transfer("tallow")


def test_a_consumer_subscribes_on_entering_and_can_be_told_another_credit(
    client: sync.Client, cluster: FakeCluster
) -> None:
    with client.topic("jobs").consume(credit=2) as consumer:
        assert [type(command) for _, _, command in cluster.applied] == [broker.Subscribe]
        consumer.set_credit(5, 100)
        assert cluster.applied[-1][2] == broker.SetCredit(1, 5, 100)


def test_a_consumer_says_why_it_ended(client: sync.Client) -> None:
    with client.topic("jobs").consume() as consumer:
        client.topic("jobs").enqueue(b"a")
        client.delete_topic("jobs")
        assert [delivery.payload for delivery in consumer] == [b"a"]
        assert consumer.reason == "the topic was deleted"


def test_commands_are_pipelined_and_their_results_asked_for_later(client: sync.Client, cluster: FakeCluster) -> None:
    topic = client.topic("jobs")
    first, second = topic.enqueue_nowait(b"a", 1), topic.enqueue_nowait(b"b")
    bound = client.send(broker.Bind("x", "jobs"))
    assert cluster.applied == [] and not first.done()
    assert (first.result(), second.result(), bound.result()) == (1, 2, broker.Done())
    assert first.done() and second.done()


def test_a_pipelined_command_over_the_window_is_refused_until_there_is_room(
    client: sync.Client, cluster: FakeCluster
) -> None:
    pending = [client.send(broker.Enqueue("jobs", broker.NewMessage(b"x"))) for _ in range(cluster.window)]
    with pytest.raises(WindowExceeded):
        client.send(broker.Enqueue("jobs", broker.NewMessage(b"x")))
    client.room()
    pending.append(client.send(broker.Enqueue("jobs", broker.NewMessage(b"x"))))
    assert [each.result().id for each in pending] == list(range(1, cluster.window + 2))


def test_a_pipelined_command_without_an_answer_times_out_or_is_unknown(node: SocketNode, cluster: FakeCluster) -> None:
    silent = sync.connect(url(node.address), dial=dial)
    cluster.hold_replies = True
    late = silent.send(broker.Enqueue("jobs", broker.NewMessage(b"x")), timeout_s=0.05)
    with pytest.raises(RequestTimeout, match="Enqueue was not answered in time"):
        late.result()
    with pytest.raises(RequestTimeout, match="status was not answered"):
        silent.driver.admin({"op": "status"}, timeout_s=0.05)
    silent.driver.close(end_session=False)
    with pytest.raises(ConnectionLost):
        late.result()


# --- what becomes of work when sessions, connections and waits end ---


def interrupted(work: Callable[[], object], seconds: float) -> None:
    """Ctrl-C after a while."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupted_pop_takes_nothing_more(cluster: FakeCluster, client: sync.Client) -> None:
    """Its ticket would go on taking messages for nobody."""
    topic = client.create_topic("jobs")
    interrupted(lambda: topic.pop(3, wait_ms=60_000), 0.3)
    client.driver.request(broker.SetCredit(1, 1))
    assert [command for _, _, command in cluster.applied if isinstance(command, broker.Cancel)]


def test_a_pop_after_a_lapse_is_the_new_sessions(cluster: FakeCluster, client: sync.Client) -> None:
    topic = client.create_topic("jobs")
    topic.enqueue(b"held")
    (held,) = topic.pop()
    cluster.expire(client.driver.session_id)
    client.driver._drop("the connection is lost")
    with pytest.raises(LeaseLost):
        held.ack()
    topic.enqueue(b"new", 9)
    assert topic.pop()


def test_a_consumer_whose_session_has_lapsed_is_at_its_end(cluster: FakeCluster, client: sync.Client) -> None:
    topic = client.create_topic("jobs")
    consumer = topic.consume()
    topic.enqueue(b"a")
    next(consumer)
    cluster.expire(client.driver.session_id)
    client.driver._drop("the connection is lost")
    with pytest.raises(SessionExpired):
        next(consumer)
    with pytest.raises(StopIteration):
        next(consumer)


def test_an_ack_before_the_connection_broke_holds_when_the_client_closes(
    cluster: FakeCluster, node: SocketNode
) -> None:
    """It is done: with the session's lapse it would be delivered, and done, again."""
    client = sync.connect(url(node.address), dial=dial)
    topic = client.create_topic("jobs")
    topic.enqueue(b"a")
    (delivery,) = topic.pop()
    delivery.ack_nowait()
    node.drop_all()
    client.close()
    assert [command for _, _, command in cluster.applied if isinstance(command, broker.Ack)]
    assert not cluster.sessions


def hear_of_it(client: sync.Client) -> None:
    while client.driver.ready:
        client.driver.poll(0.02)


def test_what_did_not_leave_in_time_is_taken_back_and_never_carried_out(
    client: sync.Client, node: SocketNode, cluster: FakeCluster
) -> None:
    jobs = client.topic("jobs")
    jobs.enqueue(b"before")
    cluster.leads = False
    node.drop_all()
    hear_of_it(client)
    for payload in (b"ghost-1", b"ghost-2"):
        with pytest.raises(NotSent, match=r"Enqueue did not leave.*No node takes it"):
            client.driver.request(broker.Enqueue("jobs", broker.NewMessage(payload)), timeout_s=0.02)
    cluster.leads = True
    assert jobs.enqueue(b"after") == 2
    assert [command.message.payload for _, _, command in cluster.applied] == [b"before", b"after"]
    assert client.driver.unanswered == 0


def test_an_ack_that_did_not_leave_in_time_goes_out_when_it_can(
    client: sync.Client, node: SocketNode, cluster: FakeCluster
) -> None:
    jobs = client.topic("jobs")
    jobs.enqueue(b"x")
    (delivery,) = jobs.pop(1)
    cluster.leads = False
    node.drop_all()
    hear_of_it(client)
    with pytest.raises(RequestTimeout):
        client.driver.request(broker.Ack([delivery.token]), timeout_s=0.02)
    cluster.leads = True
    client.driver.wait_answers()
    assert not client.driver.holds(delivery.token)


# --- for a long time ---


def test_nothing_is_kept_of_what_was_answered(client: sync.Client) -> None:
    jobs = client.topic("jobs")
    jobs.enqueue(b"x")

    def kept() -> dict[str, int]:
        session = vars(client.driver._session)
        return {name: len(value) for name, value in session.items() if isinstance(value, dict | list | set)}

    before = kept()
    for _ in range(3):
        client.driver.query(broker.GetStats())
        client.status()
        jobs.enqueue(b"x")
        client.driver.poll()
    assert kept() == before


# --- a fork ---


def in_child(work: Callable[[], object]) -> str:
    """What `work` raises in the child of a fork, or returns, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


def test_a_child_of_a_fork_does_not_use_its_parents_session(
    client: sync.Client, node: SocketNode, cluster: FakeCluster
) -> None:
    jobs = client.topic("jobs")
    jobs.enqueue(b"parent-0")
    assert in_child(lambda: jobs.enqueue(b"child")).startswith("ConnectionLost: this client was opened before a fork")
    jobs.enqueue(b"parent-1")
    assert [command.message.payload for _, _, command in cluster.applied] == [b"parent-0", b"parent-1"]


def test_a_child_that_leaves_its_parents_client_does_not_end_the_session(
    client: sync.Client, cluster: FakeCluster
) -> None:
    def leave() -> None:
        with client:
            pass

    client.topic("jobs").enqueue(b"x")
    assert in_child(leave) == "None"
    assert list(cluster.sessions) == [client.driver.session_id]
    client.topic("jobs").enqueue(b"y")


def test_a_child_opens_a_client_of_its_own(client: sync.Client, node: SocketNode) -> None:
    def enqueue() -> int:
        with sync.connect(url(node.address), dial=dial) as own:
            return own.topic("jobs").enqueue(b"child")

    client.topic("jobs").enqueue(b"x")
    assert in_child(enqueue) == "2"
    assert client.topic("jobs").enqueue(b"y") == 3
