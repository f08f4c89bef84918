"""`disheap migrate --from redis://`: lists of kombu's Redis transport, and what workers held when they ended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis_process import RedisProcess

import disheap  # noqa: F401  (registers the transport)
import kombu

COMMAND_S = 60


@pytest.fixture
def node() -> Iterator[str]:
    """A node in memory."""
    command = [sys.executable, "-m", "disheap", "dev", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["broker_url"]
        process.terminate()


def migrate(source: str, target: str, *more: str) -> dict[str, int]:
    command = [sys.executable, "-m", "disheap", "migrate", "--from", source, "--to", target, "--queue", "celery"]
    done = subprocess.run([*command, "--json", *more], capture_output=True, text=True, timeout=COMMAND_S)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["queues"]["celery"]


def publish(url: str, numbers: list[int], options: dict[str, Any] | None = None, **more: Any) -> None:
    with kombu.Connection(url, transport_options=options or {}) as connection:
        queue = kombu.Queue("celery", kombu.Exchange("celery"), routing_key="celery")
        producer = connection.Producer()
        for number in numbers:
            producer.publish(number, exchange="celery", routing_key="celery", declare=[queue], **more)


def taken(url: str) -> list[Any]:
    found = []
    with kombu.Connection(url) as connection:
        while (message := connection.default_channel.basic_get("celery", no_ack=True)) is not None:
            found.append(message)
    return found


def test_each_priority_is_moved_in_the_order_of_its_queue(redis_server: RedisProcess, node: str) -> None:
    for priority, numbers in ((9, [1, 2]), (0, [3, 4]), (3, [5])):
        publish(redis_server.url, numbers, priority=priority)
    row = migrate(redis_server.url, node)
    assert row == {"moved_messages": 5, "with_eta": 0, "taken_meanwhile": 0, "left_messages": 0}
    assert [message.decode() for message in taken(node)] == [3, 4, 5, 1, 2]


def test_options_of_the_transport_say_where_the_keys_are(redis_server: RedisProcess, node: str) -> None:
    options = {"global_keyprefix": "shop", "priority_steps": [0, 1, 2]}
    publish(redis_server.url, [1], options, priority=2)
    assert migrate(redis_server.url, node)["moved_messages"] == 0
    assert migrate(redis_server.url, node, "--from-options", json.dumps(options))["moved_messages"] == 1


@pytest.mark.parametrize("is_wanted", [True, False])
def test_what_a_killed_worker_held_is_moved_unless_it_may_not(
    redis_server: RedisProcess, node: str, is_wanted: bool
) -> None:
    """A worker keeps tasks with an eta unacknowledged. When it is killed they stay in the hash."""
    eta = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    publish(redis_server.url, [1, 2], headers={"task": "t", "id": "1", "eta": eta})
    with kombu.Connection(redis_server.url) as killed:
        channel = killed.channel()
        channel.do_restore = False
        while channel.basic_get("celery") is not None:
            pass
        row = migrate(redis_server.url, node, "--unacked" if is_wanted else "--no-unacked")
        held = channel.client.hlen(channel.unacked_key), channel.client.zcard(channel.unacked_index_key)
    assert (row["moved_messages"], row["with_eta"]) == ((2, 2) if is_wanted else (0, 0))
    assert held == ((0, 0) if is_wanted else (2, 2))


def test_another_queue_s_messages_stay(redis_server: RedisProcess, node: str) -> None:
    publish(redis_server.url, [1])
    with kombu.Connection(redis_server.url) as connection:
        connection.Producer().publish(2, routing_key="other", declare=[kombu.Queue("other")])
        channel = connection.channel()
        channel.do_restore = False
        assert channel.basic_get("other") is not None
        assert migrate(redis_server.url, node)["moved_messages"] == 1
        assert channel.client.hlen(channel.unacked_key) == 1
