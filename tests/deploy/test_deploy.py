"""The files under `contrib/deploy`, run as processes with exactly their environments and commands."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from disheap.config.cluster_secret import new_secret
from tests.chaos.namespaces import why_no_namespaces
from tests.deploy.files import DEPLOY, Container, compose, image, manifests, pods, unit
from tests.deploy.places import POLL_S, WAIT_S, Places

pytestmark = pytest.mark.timeout(0)

CLIENT = "client"
TOP = DEPLOY.parents[1]


@pytest.fixture(autouse=True)
def needs_namespaces() -> None:
    if reason := why_no_namespaces():
        pytest.skip(reason)


def disheap(places: Places, url: str, *words: str) -> str:
    """A command in a place of its own, as an operator's or an application's."""
    done = places.run(CLIENT, ["disheap", *words], {"DISHEAP_URL": url})
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def voters(places: Places, url: str) -> list[str]:
    status = json.loads(disheap(places, url, "status", "--json"))
    assert status["failures_tolerated"] == 1, status
    return sorted(node["node"] for node in status["nodes"])


def wait_until(condition: Callable[[], bool]) -> None:
    """Asks again and again, as a kubelet does with its probes, only more often."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "the probe failed for too long"
        time.sleep(POLL_S)


def status_of(address: str) -> int:
    """The HTTP status of a page; 0 if nobody answers."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def start_in_order(places: Places, containers: list[Container]) -> dict[str, subprocess.Popen[bytes]]:
    """As compose does: each after those that it waits for are healthy."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    checks = {one.name: one for one in containers}
    for container in containers:
        for name in container.waits_for:
            assert name in running, f"{container.name} waits for {name}, which comes later"
            places.wait_healthy(name, checks[name].healthcheck, checks[name].environment)
        running[container.name] = places.start(container.name, container.words, container.environment)
    for container in containers:
        places.wait_healthy(container.name, container.healthcheck, container.environment)
    return running


def test_compose_makes_a_cluster_that_survives_the_loss_of_each_node(tmp_path: Path) -> None:
    containers = compose({"DISHEAP_CLUSTER_SECRET": new_secret()})
    names = [one.name for one in containers]
    url = f"disheap://{','.join(names)}"
    with Places([*names, CLIENT], tmp_path) as places:
        running = start_in_order(places, containers)
        assert voters(places, url) == names
        disheap(places, url, "topic", "create", "jobs")
        for container in containers:
            running[container.name].kill()
            running[container.name].wait()
            disheap(places, url, "enqueue", "jobs", container.name)
            running[container.name] = places.start(container.name, container.words, container.environment)
            places.wait_healthy(container.name, container.healthcheck, container.environment)
        assert voters(places, url) == names
        assert disheap(places, url, "pop", "jobs", "--count", "9").split() == names
        for container in containers:
            assert places.stop(running[container.name], container.stop_s) == 0


def test_the_stateful_set_forms_a_cluster_and_answers_its_probes(tmp_path: Path) -> None:
    secret = new_secret()
    found, parts = pods(secret), manifests()
    domain = f".{parts['Service']['metadata']['name']}"
    names = [one.name for one in found]
    url = f"disheap://{','.join(name + domain for name in names)}"
    (container,) = parts["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    with (
        Places([*names, CLIENT], tmp_path, domain) as places,
        ThreadPoolExecutor(1, initializer=places.net.enter) as hub,  # in the namespace that joins the places
    ):

        def passes(name: str, kind: str) -> bool:
            """The probe of that kind, from outside the pod, as the kubelet asks."""
            asked = container[kind]["httpGet"]
            address = f"http://{places.net.address[name]}:{ports[asked['port']]}{asked['path']}"
            return hub.submit(status_of, address).result(WAIT_S) == 200

        running = {pod.name: places.start(pod.name, pod.words, pod.environment) for pod in found}
        for name in names:
            wait_until(partial(passes, name, "startupProbe"))
            wait_until(partial(passes, name, "readinessProbe"))
        assert voters(places, url) == names
        disheap(places, url, "topic", "create", "jobs")
        for pod in found:  # a rolling update: one by one, each after the one before is ready
            assert places.stop(running[pod.name], pod.stop_s) == 0
            assert not passes(pod.name, "livenessProbe")
            running[pod.name] = places.start(pod.name, pod.words, pod.environment)
            wait_until(partial(passes, pod.name, "readinessProbe"))
            disheap(places, url, "enqueue", "jobs", pod.name)
        stats = json.loads(disheap(places, url, "topic", "ls", "--json"))
        assert [one["ready"] for one in stats["topics"]] == [3]


def test_the_unit_starts_a_node_that_reloads_and_stops_as_systemd_asks(tmp_path: Path) -> None:
    service = unit()["Service"]
    (command,), (reload_command,) = service["ExecStart"], service["ExecReload"]
    assert service["Type"] == ["notify"] and reload_command == "/bin/kill -HUP $MAINPID"
    given = dict(pair.split("=", 1) for pair in " ".join(service["Environment"]).split())
    state = given["DISHEAP_DATA_DIR"]
    assert state == f"/var/lib/{service['StateDirectory'][0]}"
    config = tmp_path / "disheap.toml"
    config.write_text('name = "n1"\nalone = true\nclient_listen = "127.0.0.1:0"\n')
    program, *words = command.split()
    assert Path(program).name == "disheap"
    here = {"DISHEAP_CONFIG": str(config), "DISHEAP_DATA_DIR": str(tmp_path / "state")}
    notify = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(notify))
        manager.settimeout(WAIT_S)

        def wait_for(line: str) -> None:
            while line not in manager.recv(4096).decode().split("\n"):
                pass

        environment = {**given, **here, "NOTIFY_SOCKET": str(notify), "PATH": os.environ["PATH"]}
        command_here = [str(Path(sys.executable).parent / "disheap"), *words]
        with subprocess.Popen(command_here, env=environment, stderr=subprocess.DEVNULL) as node:
            try:
                wait_for("READY=1")
                node.send_signal(signal.SIGHUP)
                wait_for("RELOADING=1"), wait_for("READY=1")
                node.send_signal(signal.SIGTERM)
                wait_for("STOPPING=1")
                assert node.wait(float(service["TimeoutStopSec"][0])) == 0
            finally:
                node.kill()


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    checker = shutil.which("systemd-analyze")
    if checker is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / "disheap.service"
    text = (DEPLOY / "disheap.service").read_text()
    copy.write_text(text.replace("/opt/disheap/bin/disheap", str(Path(sys.executable).parent / "disheap")))
    done = subprocess.run([checker, "verify", str(copy)], capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_holds_what_its_healthcheck_and_its_command_need(tmp_path: Path) -> None:
    built = image()
    assert built.user == "disheap"
    for *sources, target in built.copied:
        for source in sources:
            place = tmp_path / target / ("" if target.endswith("/") else Path())
            if (TOP / source).is_dir():
                shutil.copytree(TOP / source, tmp_path / target)
            else:
                shutil.copy(TOP / source, place)
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=WAIT_S)
    install = [environment / "bin" / "pip", "install", "--quiet", "--no-cache-dir", built.installed]
    subprocess.run(install, cwd=tmp_path, check=True, timeout=5 * WAIT_S)
    plugins = subprocess.run(
        [environment / "bin" / built.entrypoint[0], "plugins", "--json"],
        capture_output=True, text=True, check=True, timeout=WAIT_S, env={},
    )  # fmt: skip
    found = {(one["kind"], one["name"]): one for one in json.loads(plugins.stdout)["plugins"]}
    assert built.environment["DISHEAP_HTTP_LISTEN"] in built.healthcheck[-1], "the check asks where the node listens"
    assert found["service", "http"]["error"] is None
