"""Messages wait for a free slot of the pool, and what is more urgent comes first. Over a client without a node."""

from __future__ import annotations

import os
import weakref
from threading import Thread
from types import SimpleNamespace

import pytest
from kombu_fakes import delivery

from disheap.errors import ConfigError
from disheap.protocol import broker
from disheap_kombu.celery_pool import WorkerPool
from disheap_kombu.connection import Connection
from disheap_kombu.options import holds_back_tasks
from disheap_kombu.reading import demand

PREFETCH = 4


class FakePool:
    """A pool for the messages of one channel. A message that begins takes a slot until `end` is called."""

    keeps_buffer = True

    def __init__(self, channel, slots):
        self.channel, self.slots, self.running = channel, slots, []

    def takes_from(self, channel):
        return channel is self.channel

    def free_slots(self):
        return self.slots - len(self.running)

    def begin(self, message):
        self.running.append(message)

    def end(self, count=1):
        for _ in range(count):
            self.running.pop(0).ack()


@pytest.fixture
def pool(channel):
    pool = FakePool(channel, 1)
    demand.use_pool(pool)
    channel.basic_qos(0, PREFETCH, False)
    channel.basic_consume("q", consumer_tag="c", callback=pool.begin)
    yield pool
    demand.use_pool(None)


@pytest.fixture
def receive(connection, driver):
    """Delivers messages (id, priority) and runs callbacks."""

    def receive(*messages):
        driver.receive(*(delivery(1, number, priority=priority) for number, priority in messages))
        connection.read()
        connection.dispatch()

    return receive


def begun(pool):
    return [message.delivery_info["priority"] for message in pool.running]


def given_back(driver):
    return [token for command in driver.commands_of(broker.Nack) for token in command.tokens]


def test_messages_wait_until_the_pool_has_a_free_slot(pool, receive, connection):
    receive((1, 0), (2, 0))
    assert len(pool.running) == 1 and not connection.pending
    pool.end()
    assert connection.pending
    connection.dispatch()
    assert len(pool.running) == 1 and not connection.pending


def test_the_most_urgent_message_begins_first_and_then_the_oldest(pool, receive, connection):
    receive((1, 0), (3, 5), (2, 5), (4, 9))
    order = begun(pool)
    ids = []
    for _ in range(3):
        pool.end()
        connection.dispatch()
        order += begun(pool)
        ids.append(list(connection._deliveries.demand.consumers()))
    assert order == [9, 5, 5, 0]


def test_a_full_credit_asks_for_what_is_more_urgent(pool, receive, driver):
    receive((1, 0), (2, 3), (3, 1))
    assert driver.commands_of(broker.Overtake) == [], "the broker sends more by itself"
    receive((4, 2))
    assert driver.commands_of(broker.Overtake) == [broker.Overtake(1, 0)]


def test_equal_messages_are_asked_for_once(pool, receive, driver, connection):
    receive(*((number, 0) for number in range(1, 5)))
    for number in range(5, 20):
        pool.end()
        connection.dispatch()
        receive((number, 0))
    assert driver.commands_of(broker.Overtake) == [broker.Overtake(1, 0)]
    assert given_back(driver) == []


def test_what_overtakes_sends_the_least_urgent_message_back(pool, receive, driver, connection):
    receive((1, 3), (2, 0), (3, 1), (4, 2))
    receive((5, 9))
    assert given_back(driver) == [(2, 1)]
    assert driver.commands_of(broker.Nack)[-1].release, "it was not begun"
    assert driver.commands_of(broker.Overtake) == [broker.Overtake(1, 0), broker.Overtake(1, 1)]
    names = [type(command).__name__ for command in driver.commands]
    assert names[-2:] == ["Overtake", "Nack"], "what goes back is not asked for again"
    pool.end()
    connection.dispatch()
    assert begun(pool) == [9]


def test_of_equals_the_youngest_goes_back(pool, receive, driver):
    receive((1, 0), (2, 0), (3, 0), (4, 0))
    receive((5, 9))
    assert given_back(driver) == [(4, 1)]


def test_a_lower_message_that_comes_is_asked_for_again(pool, receive, driver, connection):
    receive((1, 5), (2, 5), (3, 5), (4, 5))
    pool.end()
    connection.dispatch()
    receive((5, 1))
    assert driver.commands_of(broker.Overtake) == [broker.Overtake(1, 5), broker.Overtake(1, 1)]


def test_messages_that_begin_at_once_ask_for_nothing(pool, receive, driver):
    pool.slots = PREFETCH
    receive((1, 1), (2, 2), (3, 3), (4, 4))
    assert len(pool.running) == 4
    assert driver.commands_of(broker.Overtake) == []


def test_the_request_leaves_before_a_callback_that_works_for_long(pool, receive, driver):
    """Under the solo pool the task runs in the callback."""
    sent = []
    pool.channel._consumers["c"].callback = lambda message: (
        pool.begin(message),
        sent.append((driver.commands_of(broker.Overtake), driver.flushed_commands == len(driver.commands))),
    )
    receive((1, 0), (2, 0), (3, 0), (4, 0))
    assert sent == [([broker.Overtake(1, 0)], True)]


def test_what_comes_while_a_callback_works_is_asked_about(pool, receive, driver, connection):
    """The keepalive thread looks: the solo pool blocks the event loop."""

    def callback(message):
        pool.begin(message)
        driver.receive(*(delivery(1, number) for number in (2, 3, 4)))
        thread = Thread(target=connection.heartbeat)
        thread.start()
        thread.join()

    pool.channel._consumers["c"].callback = callback
    receive((1, 0))
    assert driver.commands_of(broker.Overtake) == [broker.Overtake(1, 0)]


def test_other_messages_of_the_connection_do_not_wait(pool, receive, connection, driver):
    other, got = connection.channel(), []
    other.basic_consume("events", consumer_tag="e", callback=got.append, no_ack=True)
    receive((1, 0), (2, 0))
    driver.receive(delivery(2, 3, epoch=0))
    connection.read()
    connection.dispatch()
    assert len(got) == 1 and len(pool.running) == 1


def test_without_a_pool_nothing_waits(channel, driver, connection):
    got = []
    channel.basic_consume("q", consumer_tag="c", callback=got.append)
    driver.receive(delivery(1, 1, priority=0), delivery(1, 2, priority=9))
    connection.read()
    connection.dispatch()
    assert [message.delivery_info["priority"] for message in got] == [0, 9]


def test_with_the_option_count_nothing_waits(driver):
    connection = Connection(driver, SimpleNamespace(declared_entities=set()), holds_back=False)
    channel = connection.channel()
    pool = FakePool(channel, 1)
    demand.use_pool(pool)
    try:
        channel.basic_consume("q", consumer_tag="c", callback=pool.begin)
        driver.receive(delivery(1, 1), delivery(1, 2))
        connection.read()
        connection.dispatch()
        assert len(pool.running) == 2
    finally:
        demand.use_pool(None)


def test_a_cancelled_consumer_gives_back_what_waits(pool, receive, driver, channel):
    receive((1, 0), (2, 0), (3, 0))
    channel.basic_cancel("c")
    assert sorted(given_back(driver)) == [(2, 1), (3, 1)]


def test_a_new_consumer_asks_again(pool, receive, driver, channel, connection):
    """The group has ended with its last consumer, and what it asked for with it."""
    receive((1, 0), (2, 0), (3, 0), (4, 0))
    channel.basic_cancel("c")
    channel.basic_consume("q", consumer_tag="d", callback=pool.begin)
    driver.receive(*(delivery(2, number) for number in (5, 6, 7)))
    connection.read()
    connection.dispatch()
    assert driver.commands_of(broker.Overtake) == [broker.Overtake(1, 0)] * 2


def test_a_closed_channel_leaves_nothing_behind(pool, receive, connection, channel):
    receive((1, 0), (2, 0))
    channel.close()
    assert not connection._deliveries.demand


def test_a_queue_that_is_deleted_takes_what_waits_with_it(pool, receive, connection, driver, channel):
    channel._consumers["c"].on_cancel = lambda tag: None
    receive((1, 0), (2, 0))
    driver.receive(broker.ConsumerEnded(1, "the topic was deleted"))
    connection.read()
    connection.dispatch()
    assert not connection._deliveries.demand


def test_drain_events_waits_for_a_free_slot(pool, driver, connection):
    """As the loop of green pools does."""
    driver.receive(delivery(1, 1), delivery(1, 2))
    connection.drain_events(timeout=1)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.05)
    pool.end()
    demand.pool_changed()
    connection.drain_events(timeout=1)
    assert len(pool.running) == 1


# --- without a buffer: `worker_disable_prefetch` ---


@pytest.fixture
def bare_pool(pool):
    pool.keeps_buffer, pool.slots = False, 2
    return pool


def test_without_a_buffer_the_credit_follows_the_free_slots(bare_pool, receive, driver, connection, channel):
    receive((1, 0))
    connection.flush()
    assert driver.commands_of(broker.SetCredit)[-1].credit == 2
    receive((2, 0))
    bare_pool.running[0].ack()  # it goes on: an early ack
    bare_pool.running[1].ack()
    connection.flush()
    assert [type(command) for command in driver.commands[-2:]] == [broker.SetCredit, broker.Ack]
    assert driver.commands_of(broker.SetCredit)[-1].credit == 0
    del bare_pool.running[0]
    assert connection.unsent
    connection.flush()
    assert driver.commands_of(broker.SetCredit)[-1].credit == 1


def test_without_a_buffer_what_came_too_early_goes_back(bare_pool, receive, driver):
    receive((1, 0), (2, 3), (3, 1), (4, 9))
    assert begun(bare_pool) == [9, 3]
    assert given_back(driver) == [(1, 1), (3, 1)]


# --- Celery's worker ---


class Request:
    """What a worker knows of a task."""

    def __init__(self, task_id):
        self.id = task_id


@pytest.fixture
def worker():
    """What is read of a worker: its state, its consumer, its pool."""
    state = SimpleNamespace(reserved_requests=weakref.WeakSet(), active_requests=weakref.WeakSet(), requests={})
    consumer = SimpleNamespace(
        app=SimpleNamespace(conf=SimpleNamespace(worker_disable_prefetch=False)),
        pool=SimpleNamespace(num_processes=3),
        controller=SimpleNamespace(autoscaler=None),
        task_consumer=SimpleNamespace(channel=object()),
    )
    holder = type("Consumer", (), {})()  # a namespace has no weak references
    holder.__dict__.update(vars(consumer))
    return SimpleNamespace(state=state, consumer=holder, pool=WorkerPool(holder, state))


def reserve(worker, *names):
    requests = [Request(name) for name in names]
    worker.state.requests.update({one.id: one for one in requests})
    for one in requests:
        worker.state.reserved_requests.add(one)
    return requests


def test_a_reserved_task_takes_a_slot_until_it_has_ended(worker):
    first, second = reserve(worker, "a", "b")
    assert worker.pool.free_slots() == 1
    worker.pool.note_end("a")
    assert worker.pool.free_slots() == 2, "though Celery has not noted it"
    worker.state.reserved_requests.discard(first)
    assert worker.pool.free_slots() == 2
    assert worker.pool._ended == [] and second is not None


def test_an_end_that_celery_notes_meanwhile_counts_once(worker):
    """A thread of the pool notes it between two looks. Without another look, nothing would wake the loop again."""
    first, second = reserve(worker, "a", "b")
    worker.pool.note_end("a")

    class Notes(list):
        def __iter__(self):
            worker.state.reserved_requests.discard(first)
            return super().__iter__()

    worker.pool._ended = Notes([first])
    assert worker.pool.free_slots() == 2
    assert second is not None


def test_the_slots_follow_a_pool_that_grows_and_an_autoscaler(worker):
    worker.consumer.pool.num_processes = 5
    assert worker.pool.free_slots() == 5
    worker.consumer.controller.autoscaler = SimpleNamespace(max_concurrency=8)
    assert worker.pool.free_slots() == 8, "the pool grows when tasks arrive"
    worker.consumer.controller.autoscaler = None
    worker.consumer.pool.num_processes = 0
    assert worker.pool.free_slots() == 1


def test_active_tasks_take_slots_after_a_lost_connection(worker):
    requests = reserve(worker, "a", "b", "c")
    for one in requests:
        worker.state.active_requests.add(one)
    worker.state.reserved_requests.clear()
    assert worker.pool.free_slots() == 0


def test_the_end_of_a_task_in_a_child_of_the_pool_is_not_noted(worker, monkeypatch):
    requests = reserve(worker, "a")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    worker.pool.note_end("a")
    assert worker.pool.free_slots() == 2 and requests


def test_a_worker_that_has_ended_holds_nothing_back(worker):
    channel = worker.consumer.task_consumer.channel
    assert worker.pool.takes_from(channel) and not worker.pool.takes_from(object())
    worker.consumer.task_consumer = None
    assert not worker.pool.takes_from(channel)
    worker.consumer.pool = None
    assert worker.pool.free_slots() == demand.CREDIT_MAX


def test_the_option_prefetch_is_demand_or_count():
    assert [holds_back_tasks({"prefetch": value}) for value in (None, "demand", "count")] == [True, True, False]
    with pytest.raises(ConfigError, match="prefetch is 'demand'"):
        holds_back_tasks({"prefetch": "fair"})
