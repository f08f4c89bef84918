"""The dashboard and the alerts ask for metrics that a node has, with labels that these have.

One test compares names and labels with a live `/metrics`. With Prometheus at hand, others run every query on a server
that scrapes live nodes, and check and test the alerts. `.ci/run` fetches it.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse_text

from disheap.cli.processes.local_cluster import free_ports
from disheap.config.node_config import MemberConfig
from disheap.protocol.broker import CreateTopic, Enqueue, NewMessage, encode
from disheap_http.service import HttpService
from tests.http.serving import get, port
from tests.http.test_http_nodes import node, services, until_ready

__all__ = ["services"]

DEPLOY = Path(__file__).parents[2] / "contrib/deploy"
RULES = DEPLOY / "prometheus/disheap-rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana/disheap.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
SERVER_S = 30.0

OF_PROMETHEUS = {"job", "instance"}
"""Labels that Prometheus adds."""
METRIC = re.compile(r"\b((?:raft|disheap|process)_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPING = re.compile(r"\b(?:by|on|without|group_right|group_left)\s*\(([^)]*)\)")

Labels = dict[str, set[str]]
"""By the name of a metric's sample."""


def queries() -> dict[str, str]:
    """What is asked, by where it stands."""
    found = {
        f"{title} {target['refId']}": target["expr"].replace("$__rate_interval", "1m").replace("$job", ".*")
        for title, panel in PANELS.items()
        for target in panel["targets"]
    }
    return found | {rule["alert"]: rule["expr"] for rule in ALERTS}


async def scraped(services: list[HttpService]) -> Labels:
    labels: Labels = {}
    for service in services:
        for family in parse_text((await get(service, "/metrics")).body.decode()):
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


def members(name: str) -> tuple[MemberConfig, ...]:
    return tuple(MemberConfig(f"n{n}", f"{name}{n}:8300", f"{name}{n}:8400") for n in (1, 2))


async def test_every_query_asks_for_metrics_and_labels_that_nodes_have(
    services: list[HttpService], tmp_path: Path
) -> None:
    both = members("queries")
    with_disk: dict[str, Any] = {"storage": "file", "codec": "none"}
    async with (
        node("n1", both, data_dir=str(tmp_path / "n1"), **with_disk) as first,
        node("n2", both, data_dir=str(tmp_path / "n2"), **with_disk) as other,
    ):
        await asyncio.gather(*map(until_ready, services))
        leader = first if first.replicas[0].group.leads else other
        await leader.apply(encode(CreateTopic("jobs")))
        await leader.apply(encode(Enqueue("jobs", NewMessage(b"x"))))
        labels = await scraped(services)
        assert other.replicas[0].maintenance.disk_space.free_bytes
    asked = {name for query in queries().values() for name, _ in METRIC.findall(query)}
    assert len(asked) > 40, "the pattern finds nothing"
    for where, query in queries().items():
        assert wrong_names(query, labels) == set(), where


def wrong_names(query: str, labels: Labels) -> set[str]:
    """Metrics and labels of a query that there are not."""
    found = METRIC.findall(query)
    assert found or query.startswith("up{"), query
    wrong = {name for name, _ in found if name not in labels}
    known = OF_PROMETHEUS.union(*(labels.get(name, set()) for name, _ in found))
    for name, matchers in found:
        wrong |= set(MATCHER.findall(matchers)) - labels.get(name, set()) - OF_PROMETHEUS
    for grouping in GROUPING.findall(query):
        wrong |= {label.strip() for label in grouping.split(",") if label.strip()} - known
    return wrong


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("rate(disheap_enqueud_total[1m])", {"disheap_enqueud_total"}),
        ('raft_term{grup="0"}', {"grup"}),
        ("sum by (topics, group) (raft_term)", {"topics"}),
        ("raft_term - on (group) group_right () raft_term", set()),
    ],
)
def test_a_query_that_asks_for_something_else_is_found(query: str, wrong: set[str]) -> None:
    assert wrong_names(query, {"raft_term": {"group"}}) == wrong


def test_every_panel_and_alert_says_what_it_is() -> None:
    assert len(PANELS) > 25 and len(ALERTS) > 12
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for title, panel in PANELS.items():
        assert panel["targets"] and all(target["legendFormat"] for target in panel["targets"]), title
    page = (Path(__file__).parents[2] / "docs/how-to/monitor.md").read_text()
    for rule in ALERTS:
        assert rule["annotations"]["summary"] and rule["labels"]["severity"] in ("warning", "critical")
        assert f"| `{rule['alert']}` |" in page, "the page does not say what to do"


# --- with Prometheus -------------------------------------------------------------------------------------------------


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; .ci/run fetches it")
    return found


@pytest.mark.proof
def test_the_alerts_are_rules_and_fire_when_they_should() -> None:
    promtool = program("promtool")
    for words in (["check", "rules", RULES.name], ["test", "rules", "disheap-rules.test.yml"]):
        done = subprocess.run([promtool, *words], capture_output=True, text=True, cwd=RULES.parent, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.proof
async def test_every_query_is_answered_by_a_prometheus_that_scrapes_nodes(
    services: list[HttpService], tmp_path: Path
) -> None:
    prometheus, both = program("prometheus"), members("engine")
    settings: dict[str, Any] = {"storage": "file", "codec": "none"}
    async with (
        node("n1", both, data_dir=str(tmp_path / "n1"), **settings) as first,
        node("n2", both, data_dir=str(tmp_path / "n2"), **settings) as second,
    ):
        await asyncio.gather(*map(until_ready, services))
        leader = first if first.replicas[0].group.leads else second
        await leader.apply(encode(CreateTopic("jobs")))
        targets = [f"127.0.0.1:{port(service, 1)}" for service in services]
        async with Server(prometheus, targets, tmp_path) as address:
            await until_scraped(address, leader)
            answers = {where: await ask(address, query) for where, query in queries().items()}
    assert {where for where, answer in answers.items() if answer["status"] != "success"} == set()
    shown = {where for where, answer in answers.items() if answer["data"]["result"]}
    assert set(answers) - shown <= {rule["alert"] for rule in ALERTS}, "every panel shows something"


class Server:
    """A Prometheus that scrapes these targets four times a second."""

    def __init__(self, program: str, targets: list[str], directory: Path) -> None:
        (number,) = free_ports(1)
        self.address = f"127.0.0.1:{number}"
        configuration = {
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms"},
            "scrape_configs": [{"job_name": "disheap", "static_configs": [{"targets": targets}]}],
        }
        (directory / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML
        self._command = [
            program, f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address={self.address}", "--log.level=error",
        ]  # fmt: skip

    async def __aenter__(self) -> str:
        self._process = await asyncio.create_subprocess_exec(*self._command)
        return self.address

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.wait()


async def ask(address: str, query: str) -> Any:
    def read() -> Any:
        words = urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{words}", timeout=5) as answer:
            return json.load(answer)

    return await asyncio.to_thread(read)


async def until_scraped(address: str, leader: Any) -> None:
    """Waits until every node was scraped three times while messages came in."""
    async with asyncio.timeout(SERVER_S):
        while True:
            await leader.apply(encode(Enqueue("jobs", NewMessage(b"x"))))
            try:
                found = (await ask(address, "min(count_over_time(up[1m]) * up)"))["data"]["result"]
            except OSError:
                found = []
            if found and float(found[0]["value"][1]) >= 3:
                return
            await asyncio.sleep(0.1)
