"""The connection on kombu's own event loop, over a client without a node."""

from __future__ import annotations

import gc
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from amqp.exceptions import RecoverableConnectionError
from kombu.asynchronous import Hub
from kombu_fakes import FakeDriver, delivery

from disheap.client.core.broker_session import SessionLost
from disheap.protocol import broker
from disheap_kombu.celery_pool import leave_before_soft_shutdown
from disheap_kombu.connection import Connection
from disheap_kombu.reading import demand
from disheap_kombu.reading.eventloop import HubAdapter

SOON_S = 0.5  # well below the second that the hub sleeps when nobody wakes it


@pytest.fixture
def hub(connection):
    hub = Hub()
    hub.propagate_errors = (RecoverableConnectionError,)
    HubAdapter(connection, hub, keepalive=False)
    yield hub
    connection.close()
    hub.close()


@pytest.fixture
def got(channel):
    got = []
    channel.basic_consume("q", consumer_tag="c", callback=got.append)
    return got


def turn(hub, until, limit_s=SOON_S):
    """Run the loop until a condition holds; says whether it came in time."""
    started = time.monotonic()
    while not until() and time.monotonic() - started < 5:
        hub.run_once()
    return until() and time.monotonic() - started < limit_s


def test_the_loop_dispatches_deliveries_from_the_socket(hub, driver, got):
    driver.receive(delivery(1, 10), delivery(1, 11))
    assert turn(hub, lambda: len(got) == 2)


def test_deliveries_read_in_a_call_are_dispatched_without_a_socket_event(hub, driver, got):
    hub.call_soon(driver.receive_during_call, delivery(1, 10))
    assert turn(hub, lambda: got)


def test_acks_of_one_turn_go_together_and_before_the_loop_sleeps(hub, driver, got):
    driver.receive(delivery(1, 10), delivery(1, 11))
    turn(hub, lambda: len(got) == 2)
    for message in got:
        hub.call_soon(message.ack)
    assert turn(hub, lambda: driver.commands_of(broker.Ack))
    assert [sorted(ack.tokens) for ack in driver.commands_of(broker.Ack)] == [[(10, 1), (11, 1)]]
    assert driver.flushed_commands == len(driver.commands)


def test_a_long_callback_lets_the_loop_have_its_turn(hub, driver, channel):
    order = []

    def work(raw):
        order.append(f"run {raw.delivery_tag}")
        time.sleep(0.005)
        hub.call_soon(lambda: order.append(f"ack {raw.delivery_tag}"))

    channel.basic_consume("q", consumer_tag="slow", callback=work)
    driver.receive(delivery(1, 1), delivery(1, 2))
    assert turn(hub, lambda: len(order) == 4, limit_s=5)
    assert order == ["run 1", "ack 1", "run 2", "ack 2"]


def test_a_reconnection_moves_the_reader(hub, driver, got):
    before = driver.fileno()
    driver.reconnect()
    driver.receive(delivery(1, 10))
    assert turn(hub, lambda: got)
    assert before == driver.fileno() or before not in hub.readers


def test_a_reconnection_in_another_thread_moves_the_reader_on_the_loops(hub, driver, got):
    thread = threading.Thread(target=driver.reconnect)
    thread.start()
    thread.join(5)
    driver.receive(delivery(1, 10))
    assert turn(hub, lambda: got)


def test_the_client_is_polled_when_it_asks_for_it(hub, driver):
    beats = driver.polls
    driver.wants_poll_in = 0.01
    assert turn(hub, lambda: driver.polls > beats + 1, limit_s=5)


def test_the_session_is_kept_alive_by_the_loops_timer(connection, driver):
    driver.heartbeat_s = 0.01
    hub = Hub()
    HubAdapter(connection, hub, keepalive=False)
    assert turn(hub, lambda: driver.polls > 3)
    connection.close()
    hub.close()


def test_a_lapsed_session_leaves_the_loop_with_a_recoverable_error(hub, driver, got, connection):
    driver.receive(SessionLost())
    with pytest.raises(RecoverableConnectionError):
        turn(hub, lambda: False)
    assert not hub.on_tick and not hub.readers


def test_a_closed_connection_leaves_nothing_on_the_loop(hub, connection):
    connection.close()
    assert not hub.on_tick and not hub.readers


@pytest.mark.parametrize("ends", [Hub.close, Hub.reset])
def test_acks_are_sent_that_a_hub_runs_when_it_ends(hub, driver, got, ends):
    """A task of a prefork pool may end while a warm shutdown waits for it. Celery then puts the ack off to the hub."""
    driver.receive(delivery(1, 10), delivery(1, 11))
    turn(hub, lambda: len(got) == 2)
    hub.call_soon(got[0].ack)
    ends(hub)
    got[1].ack()
    assert [ack.tokens for ack in driver.commands_of(broker.Ack)] == [[(10, 1)], [(11, 1)]]
    assert driver.flushed_commands == len(driver.commands)


def test_a_session_is_kept_alive_when_its_hub_has_ended(hub, connection, driver):
    driver.heartbeat_s = 0.02
    others = set(threading.enumerate())
    hub.reset()
    beats, deadline = driver.polls, time.monotonic() + 5
    while driver.polls < beats + 3 and time.monotonic() < deadline:
        time.sleep(0.005)  # the pool's last task: nothing turns
    assert driver.polls >= beats + 3
    connection.close()
    for thread in set(threading.enumerate()) - others:
        thread.join(5)
        assert not thread.is_alive()


def test_the_keepalive_of_a_dropped_connection_ends():
    others = set(threading.enumerate())
    hub, driver = Hub(), FakeDriver()
    driver.heartbeat_s = 0.02
    HubAdapter(Connection(driver, owner=None), hub, keepalive=False)
    hub.reset()
    (thread,) = set(threading.enumerate()) - others
    del hub, driver
    deadline = time.monotonic() + 5
    while thread.is_alive() and time.monotonic() < deadline:
        gc.collect()
        thread.join(0.02)
    assert not thread.is_alive()


def test_a_closed_connection_leaves_no_callback_for_the_hubs_end(hub, connection):
    connection.close()
    assert not hub.on_close


def test_the_solo_pools_thread_keeps_the_session_while_a_task_runs(connection, driver, got):
    driver.heartbeat_s = 0.02
    hub = Hub()
    HubAdapter(connection, hub, keepalive=True)
    beats = driver.polls
    driver.receive(delivery(1, 10))
    deadline = time.monotonic() + 5
    while driver.polls < beats + 3 and time.monotonic() < deadline:
        time.sleep(0.005)  # the task: the loop does not turn
    assert driver.polls >= beats + 3 and got == []
    assert turn(hub, lambda: got)
    connection.close()
    hub.close()


def test_a_slot_that_a_result_frees_is_used_at_the_beginning_of_the_next_turn(connection, driver, channel, hub):
    """Without another poll: the pool writes the message in the same turn."""
    running, seen = [], []
    near, far = socket.socketpair()

    def take_result():
        near.recv(1)
        running.clear()
        seen.clear()

    demand.use_pool(
        SimpleNamespace(keeps_buffer=True, takes_from=lambda one: one is channel, free_slots=lambda: 1 - len(running))
    )
    try:
        channel.basic_consume("q", consumer_tag="c", callback=running.append)
        driver.receive(delivery(1, 1), delivery(1, 2))
        assert turn(hub, lambda: running)
        hub.on_tick.add(lambda: seen.append(len(running)))
        hub.add_reader(near, take_result)
        far.send(b"x")
        assert turn(hub, lambda: seen and not connection._deliveries.demand, limit_s=5)  # then the poll has nothing
        assert seen[0] == 1
    finally:
        demand.use_pool(None)
        hub.remove_reader(near)
        near.close()
        far.close()


@pytest.fixture
def ending(connection, driver, channel, hub):
    """A pool of one slot, with one message under way and two that wait, when its worker ends."""
    running, driver.heartbeat_s = [], 0.02
    demand.use_pool(
        SimpleNamespace(keeps_buffer=True, takes_from=lambda one: one is channel, free_slots=lambda: 1 - len(running))
    )
    channel.basic_consume("q", consumer_tag="c", callback=running.append)
    driver.receive(delivery(1, 1), delivery(1, 2), delivery(1, 3))
    assert turn(hub, lambda: running)
    demand.leave_pool()
    yield running
    demand.use_pool(None)


def test_a_worker_that_ends_gives_back_what_waits_and_keeps_what_it_does(ending, driver, channel):
    (cancelled,) = driver.commands_of(broker.Cancel)
    assert cancelled == broker.Cancel(1)
    assert sorted(token for command in driver.commands_of(broker.Nack) for token in command.tokens) == [(2, 1), (3, 1)]
    assert all(command.release for command in driver.commands_of(broker.Nack)), "nobody has begun them"
    assert channel.unacked == 1
    channel.basic_cancel("c")  # as Celery does later
    assert len(driver.commands_of(broker.Cancel)) == 1


def test_a_session_is_kept_alive_while_celery_sleeps_before_its_end(ending, driver):
    """The hub turns no more."""
    polls, deadline = driver.polls, time.monotonic() + 5
    while driver.polls < polls + 2:
        assert time.monotonic() < deadline, "nobody reads or pings"
        time.sleep(0.01)


def test_a_worker_leaves_its_queues_before_it_waits_for_its_tasks(monkeypatch):
    done = []
    monkeypatch.setattr(demand, "leave_pool", lambda: done.append("left"))
    conf = SimpleNamespace(worker_soft_shutdown_timeout=3.0)
    controller = SimpleNamespace(app=SimpleNamespace(conf=conf), wait_for_soft_shutdown=lambda: done.append("waited"))
    leave_before_soft_shutdown(controller)
    controller.wait_for_soft_shutdown()
    assert done == ["left", "waited"]
    conf.worker_soft_shutdown_timeout = 0
    controller.wait_for_soft_shutdown()
    assert done == ["left", "waited", "waited"]
    leave_before_soft_shutdown(SimpleNamespace())  # of an older Celery
