"""`/metrics` and `/stats`: what they say, in which format, and that neither stops the loop."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from disheap.config.node_config import MetricsConfig
from disheap.interfaces import Histogram, Metric, StorageUsage
from disheap.protocol.broker import Ack, CreateTopic, Enqueue, NewMessage, encode
from disheap.runtime.metrics import LoopLag, StorageSizes
from disheap.testing.conformance.test_service import Context
from disheap_http.exposition import FRESH_S, Exposition, family_of
from disheap_http.rates import Rates
from disheap_http.service import HttpService
from disheap_http.statistics import ROWS_AT_ONCE
from tests.http.serving import browsing, get, serving
from tests.http.test_http_nodes import node, services, until_ready
from tests.support.loop_steps import LoopSteps

__all__ = ["services"]

OPEN = "Accept: application/openmetrics-text; version=1.0.0\r\n"
SEEDS = {
    "raft_applied_entries_total", "raft_failed_entries_total", "raft_snapshots_total", "raft_cluster_size",
    "raft_leader_changes_total",
}  # fmt: skip
"""The names of the document that the product grew from."""
MAX_CALLS = 50_000
"""The calls of functions in one step of the loop: some 10 ms."""


async def scrape(service: HttpService) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The samples by name and labels, in the format of Prometheus."""
    answer = await get(service, "/metrics", 1)
    assert (answer.status, answer.headers["content-type"].split(";")[0]) == (200, "text/plain")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in parse_text(answer.body.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


async def test_the_seeds_metrics_have_the_seeds_names(services: list[HttpService]) -> None:
    async with node() as one:
        await until_ready(services[0])
        await one.apply(encode(CreateTopic("jobs")))
        await one.apply(encode(Enqueue("jobs", NewMessage(b"x"))))
        with pytest.raises(Exception, match="no consumer"):
            from disheap.protocol.broker import Recover

            await one.apply(encode(Recover([77])))
        found = await scrape(services[0])
    assert set(found) >= SEEDS
    group = (("group", "0"),)
    assert found["raft_applied_entries_total"][group] >= 3 and found["raft_failed_entries_total"][group] == 1
    assert found["raft_leader_changes_total"][group] == 1 and found["raft_cluster_size"][()] == 1


async def test_a_live_node_tells_of_its_log_its_topics_and_itself(services: list[HttpService]) -> None:
    async with node() as one:
        await until_ready(services[0])
        await one.apply(encode(CreateTopic('odd "name"\\')))
        for _ in range(3):
            await one.apply(encode(Enqueue('odd "name"\\', NewMessage(b"x"))))
        await one.apply(encode(Ack([(99, 1)])))
        while (found := await scrape(services[0]))["disheap_loop_lag_seconds_count"][()] == 0:
            pass  # the loop's lag is measured from time to time
    group = (("group", "0"),)
    topic = (*group, ("topic", 'odd "name"\\'))
    assert found["disheap_enqueued_total"][topic] == 3
    assert found["disheap_messages"][(*group, ("state", "ready"), topic[1])] == 3
    assert found["raft_commit_seconds_count"][group] >= 5 <= found["raft_fsync_seconds_count"][group]
    assert found["raft_is_leader"][group] == found["raft_has_leader"][group] == found["disheap_ready"][()] == 1
    assert found["raft_commit_index"][group] == found["raft_applied_index"][group] >= 5
    assert found["disheap_sessions"][group] == 1 and found["disheap_uptime_seconds"][()] > 0
    assert found["raft_log_bytes"][group] > 0
    assert found["process_resident_memory_bytes"][()] > 1 << 20
    assert (("status", "200"),) in found["disheap_http_answers_total"] and found["disheap_http_connections"][()] == 1


async def test_openmetrics_is_given_to_who_asks(services: list[HttpService]) -> None:
    async with node():
        await until_ready(services[0])
        answer = await get(services[0], "/metrics", more=OPEN)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.body.count(b"# EOF") == 1 and answer.body.endswith(b"# EOF\n")
        families = {family.name: family for family in parse_openmetrics(answer.body.decode())}
        assert (
            families["raft_applied_entries"].type == "counter" and families["raft_commit_seconds"].type == "histogram"
        )
        plain = {family.name for family in parse_text((await get(services[0], "/metrics")).body.decode())}
    assert plain == set(families)


@pytest.mark.parametrize("accept", ["", "*/*", "text/html;q=x", ";;;,,,", "application/openmetrics-text;version=9;q="])
async def test_an_odd_accept_gets_text(accept: str) -> None:
    async with serving() as service:
        answer = await get(service, "/metrics", more=f"Accept: {accept}\r\n")
        assert answer.status == 200 and b"disheap_enqueued_total" in answer.body


async def test_two_nodes_in_one_process_do_not_mix(services: list[HttpService]) -> None:
    async with node() as first, node(name="other", client_listen="http-node:2"):
        await asyncio.gather(*map(until_ready, services))
        await first.apply(encode(CreateTopic("jobs")))
        names = [{dict(labels)["node"] for labels in (await scrape(one))["disheap_node_info"]} for one in services]
        topics = [(await scrape(one))["disheap_topics"][(("group", "0"),)] for one in services]
    assert (names, topics) == ([{"n1"}, {"other"}], [1, 0])


async def test_each_group_has_its_samples(services: list[HttpService]) -> None:
    async with node(groups=2) as one:
        for group in (0, 1):
            await one.wait_for_leader(group=group)
        await one.apply(encode(CreateTopic("jobs")), group=1)
        found = await scrape(services[0])
        assert {dict(labels)["group"] for labels in found["raft_term"]} == {"0", "1"}
        assert [found["disheap_topics"][(("group", str(group)),)] for group in (0, 1)] == [0, 1]
        stats = (await get(services[0], "/stats?group=1")).json
    assert [row["topic"] for row in stats["topics"]] == ["jobs"] and len(stats["groups"]) == 2


async def test_a_scrape_and_statistics_need_no_leader(services: list[HttpService]) -> None:
    from disheap.config.node_config import MemberConfig

    members = tuple(MemberConfig(f"n{n}", f"numbers{n}:8300", f"numbers{n}:8400") for n in (1, 2))
    async with node("n1", members):
        found = await scrape(services[0])
        assert found["raft_has_leader"][(("group", "0"),)] == found["disheap_ready"][()] == 0
        assert found["disheap_member_connected"] == {(("member", "n2"),): 0}
        stats = await get(services[0], "/stats")
        assert (stats.status, stats.json["leader"], stats.json["topics"]) == (200, "", [])


async def test_a_disk_that_hangs_leaves_its_sizes_out_and_is_asked_once(
    services: list[HttpService], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("disheap.runtime.metrics.SIZES_S", 0.01)
    async with node() as one:
        await until_ready(services[0])
        await scrape(services[0])
        replica, asked = one.replicas[0], []

        class Hanging:
            def submit(self, work: Any, done: Any) -> None:
                if isinstance(done.__self__, StorageSizes):  # the free space is asked for, too
                    asked.append(done)

        real = replica.disk()
        monkeypatch.setattr(replica, "disk", Hanging)
        for _ in range(3):
            await asyncio.sleep(FRESH_S)
            assert "raft_log_bytes" not in await scrape(services[0])
        assert len(asked) == 1
        monkeypatch.setattr(replica, "disk", lambda: real)
        monkeypatch.setattr("disheap.runtime.metrics.SIZES_S", 10.0)  # a busy machine's disk takes a while
        asked[0](StorageUsage(1, 2, None), None)
        await asyncio.sleep(FRESH_S)
        assert (await scrape(services[0]))["raft_log_bytes"][(("group", "0"),)] >= 0


async def test_many_topics_are_summed_paged_and_never_stop_the_loop(services: list[HttpService]) -> None:
    async with node(metrics=MetricsConfig(topics_max=400)) as one:
        await until_ready(services[0])
        machine = one.replicas[0].group.sessions.machine
        for number in range(3000):
            machine.apply(number + 100, 1, 1, encode(CreateTopic(f"topic{number:06}")))
        answers = []
        with LoopSteps() as steps:
            for target in ("/metrics", "/stats?limit=1000", "/stats?limit=1000&after=topic000999&prefix=topic0"):
                answers.append(await get(services[0], target))
        assert [answer.status for answer in answers] == [200] * 3
    topics = set(re.findall(rb'disheap_enqueued_total\{group="0",topic="(\w*)"\}', answers[0].body))
    assert len(topics) == 401 and answers[0].body.count(b"# TYPE disheap_messages ") == 1
    assert answers[0].body.count(b"disheap_messages{") == 3 * 401 and b"" in topics
    first, second = answers[1].json, answers[2].json
    assert first["next"] == "topic000999" and first["topics_matching"] == 3000
    assert [row["topic"] for row in second["topics"]] == [f"topic{number:06}" for number in range(1000, 2000)]
    assert steps.most_calls < MAX_CALLS


async def test_statistics_have_topics_priorities_sessions_and_groups(services: list[HttpService]) -> None:
    async with node() as one:
        await until_ready(services[0])
        await one.apply(encode(CreateTopic("jobs")))
        for priority in (5, 5, 1):
            await one.apply(encode(Enqueue("jobs", NewMessage(b"x", priority=priority))))
        stats = (await get(services[0], "/stats", 1)).json
    (topic,) = stats["topics"]
    assert (topic["topic"], topic["ready"], topic["priorities"]) == ("jobs", 3, [[5, 2], [1, 1]])
    assert topic["oldest_age_s"] >= 0 and topic["delayed"] == topic["leased"] == topic["consumers"] == 0
    assert (stats["sessions"], stats["totals"]["ready"], stats["next"], stats["role"]) == (1, 3, None, "leader")
    assert [row["leader"] for row in stats["groups"]] == ["n1"]


@pytest.mark.parametrize(
    "target",
    [
        "/stats?limit=1001",
        "/stats?limit=-1",
        "/stats?limit=",
        "/stats?limit=\xb2",
        "/stats?sort=x",
        "/metrics?x=1",
        "/stats?after=%ff",
        "/stats?group=1",
    ],
)
async def test_statistics_that_cannot_be_asked_for_are_refused(services: list[HttpService], target: str) -> None:
    async with node():
        assert (await get(services[0], target)).status == 400


async def test_a_page_of_no_topics_is_a_page(services: list[HttpService]) -> None:
    async with node():
        await until_ready(services[0])
        stats = (await get(services[0], "/stats?limit=0")).json
        assert (stats["topics"], stats["next"]) == ([], None)


async def test_a_scrape_of_a_node_leaves_nothing_to_the_garbage_collector(
    services: list[HttpService], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("disheap_http.exposition.FRESH_S", 0.0)
    async with node():
        await until_ready(services[0])
        exposition = services[0]._exposition
        await exposition.answer("")
        gc.collect()
        gc.disable()
        try:
            for _ in range(30):
                await exposition.answer("")
            assert gc.collect() < 30, "no object for each scrape"
        finally:
            gc.enable()


# --- parts -----------------------------------------------------------------------------------------------------------


def enqueued(*samples: tuple[str, float]) -> list[Metric]:
    labels = ("group", "topic")
    return [
        Metric("disheap_enqueued_total", "counter", "", labels, [(("0", topic), value) for topic, value in samples])
    ]


def test_a_rate_is_that_between_the_last_two_looks() -> None:
    rates = Rates()
    rates.update(10.0, enqueued(("jobs", 100)))
    assert rates.of(0, "jobs") is None, "nothing to compare with"
    rates.update(15.0, enqueued(("jobs", 150), ("new", 7)))
    assert rates.of(0, "jobs") == {"enqueued": 10.0} and rates.of(0, "new") is None
    rates.update(20.0, enqueued(("jobs", 5)))
    assert rates.of(0, "jobs") == {"enqueued": 0.0}, "a replica has begun to count again"
    assert rates.of(1, "jobs") is None


def test_buckets_are_summed_up_as_prometheus_wants_them() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.1, 0.05, 0.5, 7.0):
        histogram.observe(value)
    samples = family_of(Metric("a_seconds", "histogram", "", (), [((), histogram.read())])).samples
    found = {(sample.name, sample.labels.get("le")): sample.value for sample in samples}
    assert found == {
        ("a_seconds_bucket", "0.1"): 2, ("a_seconds_bucket", "1.0"): 3, ("a_seconds_bucket", "+Inf"): 4,
        ("a_seconds_count", None): 4, ("a_seconds_sum", None): 7.65,
    }  # fmt: skip


async def test_scrapes_that_come_together_are_written_once() -> None:
    collected = 0

    async def collect() -> Sequence[Metric]:
        nonlocal collected
        collected += 1
        await asyncio.sleep(0)
        return enqueued(("jobs", collected))

    exposition = Exposition(asyncio.get_running_loop(), collect)
    answers = await asyncio.gather(*(exposition.answer("") for _ in range(20)))
    assert collected == 1 and len({answer.body for answer in answers}) == 1
    await asyncio.sleep(FRESH_S)
    assert (await exposition.answer("")).body != answers[0].body


def test_the_lag_of_the_loop_is_how_late_a_timer_is() -> None:
    now = 100.0
    lag = LoopLag(lambda: now)
    lag.called()
    lag.due(0.05)
    now += 0.3
    lag.called()
    found = lag.seconds.read()
    assert sum(found.counts) == 1 and found.total == pytest.approx(0.25)


async def test_statistics_of_a_machine_that_counts_nothing_have_no_topics(services: list[HttpService]) -> None:
    async with node(machine="counter"):
        await until_ready(services[0])
        stats = (await get(services[0], "/stats")).json
        assert (stats["topics"], stats["topics_matching"], stats["machine"]) == ([], 0, "counter")
        assert "disheap_messages" not in await scrape(services[0])


async def test_counters_that_cannot_be_read_do_not_end_the_service() -> None:
    class Broken(Context):
        async def measure(self) -> list[Metric]:
            raise RuntimeError("a bug")

    async with serving(Broken()) as service, browsing(service) as browser:
        assert (await browser.get("/metrics")).status == 500
        assert (await browser.get("/health")).status == 200


def test_a_turn_of_the_loop_reads_few_rows() -> None:
    assert ROWS_AT_ONCE <= 50, "the contract of list_stats"
