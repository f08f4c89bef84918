"""Reads the deployment's files as their own programs would, as far as the tests need it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

DEPLOY = Path(__file__).parents[2] / "contrib" / "deploy"


class Image(NamedTuple):
    """What the Dockerfile's last stage says."""

    environment: dict[str, str]
    entrypoint: list[str]
    command: list[str]
    healthcheck: list[str]
    copied: list[list[str]]  # the words of each COPY of the first stage
    installed: str  # what `pip install` gets
    user: str


class Container(NamedTuple):
    name: str
    words: list[str]
    environment: dict[str, str]
    healthcheck: list[str]
    waits_for: list[str]  # until they are healthy
    stop_s: float


def image() -> Image:
    text = re.sub(r"\\\n\s*", " ", (DEPLOY / "Dockerfile").read_text())
    stages = re.split(r"(?m)^FROM ", text)[1:]
    lines = [line.split(maxsplit=1) for line in stages[-1].splitlines()[1:] if line and not line.startswith("#")]
    environment: dict[str, str] = {}
    found: dict[str, str] = {}
    for word, rest in lines:
        if word == "ENV":
            environment.update(pair.split("=", 1) for pair in shlex.split(rest))
        found[word] = rest
    installed = re.search(r"pip install --no-cache-dir (\S+)", stages[0])
    assert installed is not None
    return Image(
        environment=environment,
        entrypoint=json.loads(found["ENTRYPOINT"]),
        command=json.loads(found["CMD"]),
        healthcheck=json.loads(found["HEALTHCHECK"].split("CMD", 1)[1]),
        copied=[line.split()[1:] for line in stages[0].splitlines() if line.startswith("COPY ")],
        installed=shlex.split(installed[1])[0],
        user=found["USER"],
    )


def compose(variables: Mapping[str, str]) -> list[Container]:
    """The services of the compose file. `variables` are those of the shell that calls docker compose."""
    built, services = image(), yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return [_service(name, service, built, variables) for name, service in services.items()]


def _service(name: str, service: Mapping[str, Any], built: Image, variables: Mapping[str, str]) -> Container:
    given = {key: _expanded(value, variables) for key, value in service["environment"].items()}
    kind, *check = service["healthcheck"]["test"]
    waited = service.get("depends_on", {})
    assert kind == "CMD" and all(one["condition"] == "service_healthy" for one in waited.values())
    return Container(
        name,
        [*built.entrypoint, *service["command"]],
        {**built.environment, **given},
        check,
        list(waited),
        float(service["stop_grace_period"].removesuffix("s")),
    )


def _expanded(text: str, variables: Mapping[str, str]) -> str:
    """Replaces `${NAME:?what to do}`."""
    return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: variables[found[1]], text)


def manifests() -> dict[str, Any]:
    """The manifests of Kubernetes, by kind."""
    text = (DEPLOY / "kubernetes" / "disheap.yaml").read_text()
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def pods(secret: str) -> list[Container]:
    """The pods of the StatefulSet. Their probes are HTTP, so `healthcheck` is empty."""
    built, spec = image(), manifests()["StatefulSet"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    return [
        Container(
            name := f"disheap-{number}",
            [*built.entrypoint, *container["args"]],
            {**built.environment, **{one["name"]: _value(one, name, secret) for one in container["env"]}},
            [],
            [],
            float(pod["terminationGracePeriodSeconds"]),
        )
        for number in range(spec["replicas"])
    ]


def _value(variable: Mapping[str, Any], pod: str, secret: str) -> str:
    if "value" in variable:
        return str(variable["value"])
    source = variable["valueFrom"]
    if source.get("fieldRef") == {"fieldPath": "metadata.name"}:
        return pod
    assert source["secretKeyRef"] == {"name": "disheap", "key": "cluster-secret"}
    return secret


def unit() -> dict[str, dict[str, list[str]]]:
    """The systemd unit: section, key, values in order."""
    sections: dict[str, dict[str, list[str]]] = {}
    for line in (DEPLOY / "disheap.service").read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections
