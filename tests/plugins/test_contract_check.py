"""A class that lacks a part of its contract is refused when it is registered, and the part is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from made_plugins import MakeDistribution, codec_source
from tests.cli.command_line import run_process
from watching_plugin import Echo

from disheap import interfaces
from disheap.errors import PluginError
from disheap.plugins.contract_check import CONTRACTS, POWERS, find_fault
from disheap.plugins.registry import Registry

SHIPPED = [
    ("transport", "inproc"), ("transport", "tcp"), ("transport", "tls"), ("storage", "memory"), ("storage", "file"),
    ("codec", "none"), ("codec", "zstd"), ("machine", "heap"),
]  # fmt: skip
METHODS = [
    (kind, name)
    for kind, contract in CONTRACTS.items()
    for name, value in vars(contract).items()
    if callable(value) and not name.startswith("_") and name != "Settings"
]

MANY = ("Repairable", "PeerStore")
"""Powers of more than one method."""

ASYNC_METHODS = [("transport", "listen"), ("transport", "connect"), ("service", "start"), ("service", "stop")]


def shipped(kind: str) -> type[Any]:
    if kind == "service":  # none is shipped
        return Echo
    return Registry.load().get(kind, {"transport": "tcp", "storage": "file", "codec": "none", "machine": "heap"}[kind])


def changed(kind: str, **attributes: Any) -> type[Any]:
    return type("Mine", (shipped(kind),), attributes)


def test_every_method_of_every_contract_is_looked_for() -> None:
    assert len(METHODS) > 25
    for method in [("machine", "query"), ("storage", "clear_ambiguity"), ("codec", "open_stream")]:
        assert method in METHODS


@pytest.mark.parametrize(("kind", "name"), SHIPPED)
def test_a_shipped_class_fits(kind: str, name: str) -> None:
    assert find_fault(kind, Registry.load().get(kind, name)) == ""


@pytest.mark.parametrize(("kind", "method"), METHODS)
def test_a_method_that_is_missing_is_named(kind: str, method: str) -> None:
    fault = find_fault(kind, changed(kind, **{method: None}))
    assert f"lacks the method {method}(" in fault and f"of disheap.interfaces.{CONTRACTS[kind].__name__}" in fault


@pytest.mark.parametrize(("kind", "method"), METHODS)
def test_a_method_that_asks_for_more_than_it_is_given_is_named(kind: str, method: str) -> None:
    def greedy(self: Any, one: Any, two: Any, three: Any, four: Any, five: Any, six: Any) -> None: ...

    assert f"has a method {method} that cannot be called as {method}(" in find_fault(
        kind, changed(kind, **{method: greedy})
    )


@pytest.mark.parametrize("kind", CONTRACTS)
def test_a_method_that_is_async_and_must_not_be_is_named(kind: str) -> None:
    async def late(self: Any, *words: Any, **names: Any) -> None: ...

    async def late_too(self: Any, *words: Any, **names: Any) -> Any:
        yield

    plain = [name for owner, name in METHODS if owner == kind and (owner, name) not in ASYNC_METHODS]
    for name in plain:
        for method in (late, late_too):
            assert f"has a method {name} that is async" in find_fault(kind, changed(kind, **{name: method}))
    for owner, name in ASYNC_METHODS:
        assert find_fault(owner, changed(owner, **{name: late})) == ""


def test_a_parameter_that_is_passed_by_keyword_keeps_its_name() -> None:
    def other(self: Any, identity: Any, tail_bytes: int, is_alone: bool) -> None: ...

    assert "open(identity, tail_bytes, alone)" in find_fault("storage", changed("storage", open=other))


def test_a_parameter_passed_by_position_may_have_another_name_or_a_default() -> None:
    def mine(self: Any, at: int, now: int, who: int = 0, body: bytes = b"", more: int = 0) -> None: ...

    assert find_fault("machine", changed("machine", apply=mine)) == ""
    assert find_fault("machine", changed("machine", apply=lambda *words, **names: None)) == ""


@pytest.mark.parametrize(
    ("kind", "attributes", "said"),
    [
        ("codec", {"name": None}, "has no usable `name`: None"),
        ("codec", {"api": None}, "has no `api`; write `api = 1`"),
        ("codec", {"api": 2}, "says api = 2"),
        ("codec", {"Settings": dict}, "has no `Settings`"),
        ("machine", {"versions": None}, "has no usable `versions`: None"),
        ("machine", {"versions": (3, 2)}, "has no usable `versions`: (3, 2)"),
        ("machine", {"versions": (0, 1)}, "has no usable `versions`: (0, 1)"),
        ("storage", {"durable": None}, "has no `durable`"),
        ("storage", {"save_known_peers": None}, "every durable storage needs it"),
        ("transport", {"secure": "yes"}, "has no `secure`"),
        ("codec", {"__init__": lambda self: None}, "has a method __init__ that cannot be called as __init__(settings"),
    ],
)
def test_an_attribute_that_is_missing_or_wrong_is_named(kind: str, attributes: dict[str, Any], said: str) -> None:
    assert said in find_fault(kind, changed(kind, **attributes))


def test_a_storage_that_is_not_durable_need_not_remember() -> None:
    assert find_fault("storage", changed("storage", durable=False, save_known_peers=None, known_peers=None)) == ""


POWER_METHODS = [
    (kind, power.__name__, name)
    for kind, powers in POWERS.items()
    for power in powers
    for name in vars(power)
    if not name.startswith("_")
]


def test_every_optional_power_is_looked_at() -> None:
    powers = {power for power in vars(interfaces).values() if getattr(power, "_is_runtime_protocol", False)}
    assert powers == {power for kind in POWERS.values() for power in kind} | {
        interfaces.Rereadable,
        interfaces.Flushing,
    }, "those of a snapshot's writer and of a connection, which are no plugin classes, are asked of these alone"


@pytest.mark.parametrize(("power", "method"), [(power, name) for _, power, name in POWER_METHODS if power in MANY])
def test_half_of_an_optional_power_is_refused_and_the_rest_named(power: str, method: str) -> None:
    """The node found no power, and silently did without."""
    fault = find_fault("storage", changed("storage", durable=False, **{method: None}))
    assert f"lacks the method {method}(" in fault and f"of disheap.interfaces.{power}" in fault
    assert f"without it there is no {power}" in fault and "would never be called" in fault


@pytest.mark.parametrize(("kind", "power", "method"), POWER_METHODS)
def test_a_method_of_an_optional_power_that_cannot_be_called_is_named(kind: str, power: str, method: str) -> None:
    def greedy(self: Any, one: Any, two: Any, three: Any, four: Any, five: Any, six: Any) -> None: ...

    fault = find_fault(kind, changed(kind, **{method: greedy}))
    assert f"has a method {method} that cannot be called as {method}(" in fault
    assert f"lacks the method {method}(" in find_fault(kind, changed(kind, **{method: 7}))


@pytest.mark.parametrize(("kind", "power"), [(kind, power) for kind, powers in POWERS.items() for power in powers])
def test_a_class_without_an_optional_power_fits(kind: str, power: type[Any]) -> None:
    gone = {name: None for name in vars(power) if not name.startswith("_")}
    durable = {"durable": False} if kind == "storage" else {}
    assert find_fault(kind, changed(kind, **gone, **durable)) == ""


def test_every_fault_of_a_class_is_told_at_once() -> None:
    fault = find_fault("machine", changed("machine", query=None, stats=None, versions=None))
    for part in ("query(", "stats(", "versions"):
        assert part in fault


def test_the_registry_refuses_it_and_names_the_method_and_the_remedy(
    make_distribution: MakeDistribution,
) -> None:
    source = codec_source("red").replace("def open_stream", "def reopen_stream")
    registry = Registry.load([make_distribution("odd", {"odd": "odd_hooks"}, odd_hooks=source)])
    assert registry.names("codec") == ()
    with pytest.raises(PluginError) as caught:
        registry.get("codec", "red")
    for word in ("'odd' of odd 1.2", "a codec that is refused", "Mark lacks the method open_stream(preamble, context)"):
        assert word in str(caught.value)
    assert "write it" in str(caught.value)


def test_disheap_plugins_shows_a_refused_one_with_its_reason(
    make_distribution: MakeDistribution, tmp_path: Path
) -> None:
    source = codec_source("red").replace("def open_stream", "def reopen_stream")
    make_distribution("odd", {"odd": "odd_hooks"}, odd_hooks=source)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    listed = run_process("plugins", environ={"PYTHONPATH": path}).text
    assert "broken: plugin 'odd' of odd 1.2 brings a codec that is refused" in listed
    assert "lacks the method open_stream(preamble, context)" in listed
    rows = json.loads(run_process("plugins", "--json", environ={"PYTHONPATH": path}).out)["plugins"]
    (row,) = [row for row in rows if row["distribution"] == "odd"]
    assert (row["kind"], row["name"]) == ("codec", "red") and "open_stream" in row["error"]


def test_a_contract_may_change_while_a_class_is_compared_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of several threads check the same plugin at once, and Python adds attributes to protocols meanwhile."""

    class Watching(type):
        def __getattribute__(cls, name: str) -> Any:
            if name == "new_stream":
                monkeypatch.setattr(interfaces.Codec, "added_meanwhile", 1, raising=False)
            return super().__getattribute__(name)

    plain = shipped("codec")
    assert find_fault("codec", Watching("Mine", (plain,), {})) == ""
    assert interfaces.Codec.added_meanwhile == 1  # type: ignore[attr-defined]
