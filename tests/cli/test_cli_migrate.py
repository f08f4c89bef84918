"""`disheap migrate`: what waits at another broker of kombu, here a second node, is moved and nothing is lost."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

import disheap  # noqa: F401  (registers the transport)
import kombu
from disheap.cli.migrate import moving
from disheap.cli.migrate.moving import Target, move
from disheap.cli.migrate.sources import ChannelSource
from disheap.cli.migrate.waiting import queue_of
from disheap.errors import MigrationStopped

from .command_line import Ended, run, running

HOUR_S = 3600


@pytest.fixture(scope="module")
def source() -> Iterator[str]:
    """The broker that messages come from. kombu's transport in memory gives nothing back that it delivered."""
    with running("dev", "--port", "0", "--json") as node:
        yield json.loads(node.out.next())["broker_url"]


@pytest.fixture
def queue(source: str, request: pytest.FixtureRequest) -> str:
    """A queue in the source, called like the test."""
    name: str = request.node.name
    with kombu.Connection(source) as connection:
        connection.default_channel.queue_declare(name, durable=True)
    return name


def fill(source: str, queue: str, count: int, **options: Any) -> None:
    with kombu.Connection(source) as connection:
        producer = connection.Producer()
        for number in range(count):
            producer.publish({"n": number}, routing_key=queue, **{"priority": number % 3, **options})


def waiting(url: str, queue: str) -> list[Any]:
    """The messages, which are taken."""
    with kombu.Connection(url) as connection:
        channel, found = connection.default_channel, []
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            found.append(message)
        return found


def migrate(source: str, url: str, queue: str, *more: str) -> Ended:
    return run("migrate", "--from", source, "--to", url, "--queue", queue, *more)


def test_messages_keep_priority_headers_and_properties(source: str, url: str, queue: str) -> None:
    fill(source, queue, 7, headers={"my": "header"}, correlation_id="c1", compression="zlib", reply_to="r")
    ended = migrate(source, url, queue, "--json", "--batch", "3")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json == {
        "queues": {queue: {"moved_messages": 7, "with_eta": 0, "taken_meanwhile": 0, "left_messages": 0}}
    }
    moved = waiting(url, queue)
    assert [message.properties["priority"] for message in moved] == [2, 2, 1, 1, 0, 0, 0]
    assert sorted(message.decode()["n"] for message in moved) == list(range(7))
    first = moved[0]
    assert first.headers == {"my": "header"} and first.properties["delivery_mode"] == 2
    assert (first.properties["correlation_id"], first.properties["reply_to"]) == ("c1", "r")
    assert waiting(source, queue) == []


def test_the_smaller_number_goes_first_if_the_application_says_so(source: str, url: str, queue: str) -> None:
    fill(source, queue, 3)
    assert migrate(source, url, queue, "--priority-order", "redis").code == 0
    with kombu.Connection(url, transport_options={"priority_order": "redis"}) as connection:
        found = [connection.default_channel.basic_get(queue, no_ack=True) for _ in range(3)]
    assert [message.properties["priority"] for message in found] == [0, 1, 2]


def test_a_task_with_an_eta_waits_in_the_broker(url: str) -> None:
    eta = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=HOUR_S)).isoformat()
    with kombu.Connection("memory://") as connection:
        connection.default_channel.queue_declare("later")
    fill("memory://", "later", 2, headers={"task": "t.add", "id": "1", "eta": eta})
    ended = migrate("memory://", url, "later")
    assert ended.text == "later: 2 messages moved, 2 of them with an eta\n"
    assert waiting(url, "later") == []
    shown = run("topic", "ls", "--url", url, "--json").json["topics"]
    assert [topic["delayed"] for topic in shown if topic["topic"] == "later"] == [2]


def test_a_dry_run_counts_and_moves_nothing(source: str, url: str, queue: str) -> None:
    fill(source, queue, 4)
    assert migrate(source, url, queue, "--dry-run").text == f"{queue}: 4 messages wait\n"
    assert len(waiting(source, queue)) == 4


def test_a_target_that_refuses_leaves_all_at_the_source(source: str, url: str, queue: str) -> None:
    fill(source, queue, 3)
    with kombu.Connection(url) as connection:
        full = kombu.Queue(queue, max_length=1, queue_arguments={"x-overflow": "reject-publish"})
        full(connection.default_channel).declare()
    ended = migrate(source, url, queue)
    assert ended.code == 5 and "the target does not take the messages" in ended.err
    assert "still at the source" in ended.err
    assert (len(waiting(source, queue)), len(waiting(url, queue))) == (3, 0)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["publish", "remove"])
def test_a_command_that_is_killed_loses_nothing(
    step: str, source: str, url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two steps, and it is repeated."""
    fill(source, queue, 10)

    def killed(*_: object) -> None:
        raise Killed

    with kombu.Connection(source) as origin, kombu.Connection(url) as target:
        channel = Target(target)
        kind: type[Any] = Target if step == "publish" else ChannelSource
        assert move(ChannelSource(origin.channel(), queue), channel, 4, 4, lambda done: None).messages == 4
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(kind, step, killed)
            move(ChannelSource(origin.channel(), queue), channel, 4, 6, lambda done: None)
    assert migrate(source, url, queue).code == 0
    numbers = [message.decode()["n"] for message in waiting(url, queue)]
    assert set(numbers) == set(range(10))
    assert len(numbers) == (10 if step == "publish" else 14), "at most one batch is there twice"


def test_a_source_that_is_still_written_to_does_not_keep_it_busy(source: str, url: str, queue: str) -> None:
    fill(source, queue, 4)
    told: list[int] = []

    def more(done: int) -> None:
        told.append(done)
        fill(source, queue, 2)

    with kombu.Connection(source) as origin, kombu.Connection(url) as target:
        moved = move(ChannelSource(origin.channel(), queue), Target(target), 2, 4, more)
    assert (moved.messages, told) == (4, [2, 4])
    assert len(waiting(source, queue)) == 4


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--from", "SOURCE", "--to", "redis://x"), 2, "is no URL of disheap"),
        (("--from", "foo://x"), 2, "the source's URL cannot be used"),
        (("--from", "amqp://me:secret@127.0.0.1:1"), 5, "the source amqp://me:**@127.0.0.1:1// takes no connection"),
        (("--from", "SOURCE", "--to", "disheap://127.0.0.1:1"), 5, "the target disheap://127.0.0.1:1 takes no"),
        (("--from", "SOURCE", "--from-options", "[1]"), 2, "invalid value for '--from-options'"),
    ],
)
def test_what_cannot_be_is_told(
    words: tuple[str, ...], code: int, told: str, source: str, url: str, queue: str
) -> None:
    words = tuple(source if word == "SOURCE" else word for word in words)
    ended = run("migrate", "--queue", queue, *words, environ={"DISHEAP_URL": url})
    assert ended.code == code and told in ended.err and "secret" not in ended.err


def test_a_queue_that_is_not_there_is_named_before_anything_moves(source: str, url: str, queue: str) -> None:
    fill(source, queue, 1)
    ended = migrate(source, url, queue, "--queue", "nobody")
    assert ended.code == 2 and "has no queue 'nobody'" in ended.err and len(waiting(source, queue)) == 1


def test_a_source_that_fails_on_the_way_is_named(
    source: str, url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise ConnectionResetError("reset by peer")

    fill(source, queue, 1)
    monkeypatch.setattr(ChannelSource, "take", lost)
    ended = migrate(source, url, queue)
    port = source.rpartition(":")[2]
    assert ended.code == 5 and "repeat the command to go on" in ended.err
    assert re.search(rf"the source disheap://\S+:{port} failed: reset by peer", ended.err)


class Busy(ChannelSource):
    def consumers(self) -> int:
        return 2


def test_consumers_of_the_source_are_stopped_first(
    source: str, url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(source, queue, 1)
    monkeypatch.setattr("disheap.cli.migrate.sources.ChannelSource", Busy)
    ended = migrate(source, url, queue)
    assert ended.code == 2 and "has consumers at the source (2)" in ended.err
    assert migrate(source, url, queue, "--force").code == 0


class Delayed:
    delivery_info = {"routing_key": ".".join("01" * 14) + ".jobs.urgent"}  # noqa: RUF012


@pytest.mark.parametrize(("queue_name", "found"), [("celery_delayed_27", "jobs.urgent"), ("jobs", "jobs")])
def test_a_task_of_native_delayed_delivery_goes_to_its_own_queue(queue_name: str, found: str) -> None:
    assert queue_of(Delayed, queue_name) == found


def test_an_error_of_the_target_ends_the_batch(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with kombu.Connection(url) as connection:
        target = Target(connection)
        message = moving.Waiting(b"x", "text/plain", "utf-8", {}, {}, 1 << 70, None)
        with pytest.raises(MigrationStopped):
            target.publish([("any", message)])
