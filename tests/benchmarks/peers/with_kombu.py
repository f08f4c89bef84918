"""The workloads of kombu: publish one by one, publish without waiting, receive and acknowledge.

Each runs in the calling thread, as in an application, with messages of `PAYLOAD_BYTES` that are marked as persistent.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from contextlib import suppress
from typing import Any

import kombu
from tests.benchmarks.peers.settings import Setting

PAYLOAD_BYTES = 256
PREFETCH = 64
WARM_UP = 100
"""Messages before the measured ones."""
BATCH = 1000
DRAIN_S = 5.0
RAW = {"content_type": "application/data", "content_encoding": "binary"}


def connect(setting: Setting, url: str) -> Any:
    """kombu's connection with the options of a setting."""
    return kombu.Connection(url, transport_options=dict(setting.options), connect_timeout=20)


def publish(setting: Setting, url: str, seconds: float) -> float:
    """Messages a second, until the broker has answered for all of them. One publish begins when the one before has
    returned."""
    with connect(setting, url) as connection:
        queue = declare(connection, setting, f"publish-{uuid.uuid4().hex[:8]}")
        producer = connection.Producer(serializer=None)
        payload = bytes(PAYLOAD_BYTES)
        for _ in range(WARM_UP):
            producer.publish(payload, routing_key=queue.name, **RAW)
        wait_taken(connection, queue)
        began, sent = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for _ in range(20):
                producer.publish(payload, routing_key=queue.name, **RAW)
            sent += 20
        wait_taken(connection, queue)
        taken_s = time.perf_counter() - began
        queue.delete()
    return sent / taken_s


def receive(setting: Setting, url: str, seconds: float, messages: int) -> float:
    """Messages a second, each received by a callback and acknowledged, out of a queue that was filled before."""
    with connect(setting, url) as connection:
        queue = declare(connection, setting, f"receive-{uuid.uuid4().hex[:8]}")
        fill(connection, setting, queue, messages, bytes(PAYLOAD_BYTES))
        got, began, ended = 0, 0.0, 0.0

        def received(_body: Any, message: Any) -> None:
            nonlocal got, began, ended
            message.ack()
            got += 1
            ended = time.perf_counter()
            if got == WARM_UP:
                began = ended

        consumer = connection.Consumer(
            [queue], callbacks=[received], accept=["application/data"], prefetch_count=PREFETCH, auto_declare=False
        )
        with consumer, suppress(TimeoutError):
            while got < messages and (got < WARM_UP or ended - began < seconds):
                connection.drain_events(timeout=DRAIN_S)
        rate = (got - WARM_UP) / (ended - began)
        queue(connection.default_channel).delete()
    return rate


def declare(connection: Any, setting: Setting, name: str) -> Any:
    """A durable queue with the arguments of a setting."""
    arguments = None if setting.is_redis else dict(setting.arguments)
    queue = kombu.Queue(name, routing_key=name, durable=True, auto_delete=False, queue_arguments=arguments)
    bound = queue(connection.default_channel)
    bound.declare()
    return bound


def wait_taken(connection: Any, queue: Any) -> None:
    """Returns when the broker has taken all that was published. A question on the same channel is answered after."""
    if connection.transport.driver_type == "disheap":
        from disheap_kombu.publishing.window import flush_publishes

        flush_publishes()
    else:
        queue.queue_declare(passive=True)


PATIENT = {"socket_settings": {socket.TCP_USER_TIMEOUT: 120_000}}
"""RabbitMQ reads nothing for a while when it is given too much. py-amqp takes a connection for dead after a second."""


def fill(connection: Any, setting: Setting, queue: Any, number: int, body: Any, **properties: Any) -> None:
    """Puts that many messages into a queue, by the fastest way that the broker has."""
    properties = properties or RAW
    priority = properties.pop("priority", None)
    producer = connection.Producer(serializer=properties.pop("serializer", None))
    more = {**properties, "routing_key": queue.name, "priority": priority}
    if setting.is_redis:
        _fill_redis(connection, producer, queue, number, body, more)
    elif connection.transport.driver_type == "disheap":
        for begun in range(0, number, BATCH):
            with producer.batch():
                for _ in range(min(BATCH, number - begun)):
                    producer.publish(body, **more)
    else:
        with kombu.Connection(connection.as_uri(include_password=True), transport_options=PATIENT) as unconfirmed:
            producer = unconfirmed.Producer(serializer=producer.serializer)
            for _ in range(number):
                producer.publish(body, **more)
            wait_taken(unconfirmed, queue(unconfirmed.default_channel))


def _fill_redis(connection: Any, producer: Any, queue: Any, number: int, body: Any, more: dict[str, Any]) -> None:
    """kombu writes one message. The others are copies with delivery tags of their own."""
    producer.publish(body, **more)
    channel = connection.default_channel
    key = channel._q_for_pri(queue.name, channel.priority(more["priority"]) if more["priority"] is not None else 0)
    redis = channel.client
    written = json.loads(redis.lindex(key, 0))
    for begun in range(1, number, BATCH):
        copies = []
        for _ in range(min(BATCH, number - begun)):
            written["properties"]["delivery_tag"] = str(uuid.uuid4())
            copies.append(json.dumps(written))
        redis.lpush(key, *copies)
