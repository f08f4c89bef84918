"""Discovery: what is found, where it came from, and what a broken plugin says (docs/how-to/write-a-plugin.md)."""

from __future__ import annotations

import asyncio
import inspect
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_plugins import BROKEN_HOOK, MakeDistribution, codec_source

from disheap import interfaces
from disheap.config.node_config import NodeConfig
from disheap.errors import ConfigError, PluginError
from disheap.interfaces import CodecContext, Provenance, TransportContext
from disheap.plugins.registry import Registry, describe_plugin
from disheap.runtime.member import Member

SHIPPED = {
    ("transport", "inproc"): "memory",
    ("transport", "tcp"): "tcp",
    ("transport", "tls"): "tcp",
    ("storage", "memory"): "memory",
    ("storage", "file"): "filelog",
    ("codec", "none"): "codecs",
    ("codec", "zstd"): "codecs",
    ("machine", "heap"): "heap",
}


def test_the_shipped_plugins_are_found_through_entry_points() -> None:
    rows = {(row.kind, row.name): row for row in Registry.load().listing()}
    for identity, entry_point in SHIPPED.items():
        assert rows[identity].error == ""
        assert rows[identity].provenance.distribution == "disheap"
        assert rows[identity].provenance.entry_point == entry_point


CONTRACTS = {"transport": "Transport", "storage": "Storage", "codec": "Codec", "machine": "StateMachine"}
POWERS = [
    power
    for power in vars(interfaces).values()
    if getattr(power, "_is_runtime_protocol", False) and power.__module__.startswith(interfaces.__name__)
]


@pytest.mark.parametrize(("kind", "name"), sorted(SHIPPED))
def test_mypy_holds_a_shipped_plugin_to_its_contract_and_optional_powers(kind: str, name: str) -> None:
    plugin = Registry.load().get(kind, name)
    source = inspect.getsource(inspect.getmodule(plugin))
    for contract in [CONTRACTS[kind], *(power.__name__ for power in POWERS if issubclass(plugin, power))]:
        assert re.search(rf"^    _\w+: type\[{contract}\] = {plugin.__name__}$", source, re.MULTILINE), contract


def test_a_plugin_keeps_where_it_came_from(make_distribution: MakeDistribution) -> None:
    registry = Registry.load([make_distribution("red-codec", {"red": "red_hooks"}, red_hooks=codec_source("red"))])
    (row,) = registry.listing()
    assert (row.kind, row.name, row.provenance) == ("codec", "red", Provenance("red-codec", "1.2", "red"))
    assert registry.get("codec", "red") is row.plugin
    assert registry.names("codec") == ("red",)


def test_an_unknown_name_says_what_there_is(make_distribution: MakeDistribution) -> None:
    registry = Registry.load([make_distribution("red", {"red": "red_hooks"}, red_hooks=codec_source("red"))])
    with pytest.raises(PluginError, match=r"no codec 'blue'\. Installed: red\..*pip install"):
        registry.get("codec", "blue")
    with pytest.raises(PluginError, match=r"no storage 'red'\. Installed: none"):
        registry.get("storage", "red")


def test_an_unknown_kind_says_which_kinds_there_are() -> None:
    with pytest.raises(PluginError, match="the kinds are transport, storage, codec, machine"):
        Registry.load([]).get("codecs", "none")


def test_a_duplicate_is_refused_and_names_both_distributions(make_distribution: MakeDistribution) -> None:
    one = make_distribution("one", {"a": "one_hooks"}, one_hooks=codec_source("red"))
    two = make_distribution("two", {"b": "two_hooks"}, two_hooks=codec_source("red"))
    registry = Registry.load([one, two])
    with pytest.raises(
        PluginError, match=r"2 times: from one 1\.2 \(entry point 'a'\) and two 1\.2 \(entry point 'b'\)"
    ):
        registry.get("codec", "red")
    assert registry.names("codec") == ()
    assert [row.name for row in registry.listing()] == ["red", "red"]


def test_a_plugin_that_registers_its_class_twice_is_refused_alone(
    make_distribution: MakeDistribution,
) -> None:
    source = codec_source("red").replace("return Mark", "return [Mark, Mark]")
    twice = make_distribution("twice", {"a": "twice_hooks"}, twice_hooks=source)
    good = make_distribution("good", {"b": "good_hooks"}, good_hooks=codec_source("blue"))
    registry = Registry.load([twice, good])
    with pytest.raises(PluginError, match=r"2 times: plugin 'a' of twice 1\.2 registers it more than once\. Let"):
        registry.get("codec", "red")
    assert registry.names("codec") == ("blue",)


def test_a_node_does_not_start_with_a_machine_that_is_registered_twice(
    make_distribution: MakeDistribution, tmp_path: Path
) -> None:
    source = """
        from disheap.plugins import hookimpl
        from disheap.testing.counter import CounterMachine
        from tests.support.relay import Relay

        @hookimpl
        def disheap_register_machine():
            return [CounterMachine, Relay, CounterMachine]
    """
    make_distribution("twice", {"a": "machine_hooks"}, machine_hooks=source)
    config = NodeConfig(
        name="n1",
        alone=True,
        storage="file",
        transport="inproc",
        client_listen="n1:1",
        data_dir=str(tmp_path / "data"),
        machine="counter",
    )

    async def start() -> None:
        await Member(config, registry=Registry.load()).start()

    with pytest.raises(PluginError, match="machine 'counter' is there 2 times"):
        asyncio.run(start())
    assert not (tmp_path / "data").exists(), "a start that fails leaves nothing behind"


def test_one_module_under_two_distributions_is_a_duplicate_too(make_distribution: MakeDistribution) -> None:
    old = make_distribution("old-name", {"red": "red_hooks"}, red_hooks=codec_source("red"))
    new = make_distribution("new-name", {"red": "red_hooks"})
    with pytest.raises(PluginError, match=r"from new-name 1\.2 .* and old-name 1\.2"):
        Registry.load([old, new]).get("codec", "red")


def test_a_plugin_that_cannot_be_imported_hurts_nobody_else(make_distribution: MakeDistribution) -> None:
    good = make_distribution("good", {"good": "good_hooks"}, good_hooks=codec_source("red"))
    bad = make_distribution("bad", {"bad": "bad_hooks"}, bad_hooks="import nothing_of_this_name")
    gone = make_distribution("gone", {"gone": "no_such_module"})
    registry = Registry.load([bad, good, gone])
    assert registry.get("codec", "red").name == "red"
    assert [row.provenance.distribution for row in registry.listing()] == ["good", "bad", "gone"]


def test_a_broken_plugin_says_so_when_its_name_is_asked_for(make_distribution: MakeDistribution) -> None:
    bad = make_distribution("bad", {"bad": "bad_hooks"}, bad_hooks="import nothing_of_this_name")
    with pytest.raises(PluginError) as caught:
        Registry.load([bad]).get("storage", "mine")
    said = str(caught.value)
    assert "plugin 'bad' of bad 1.2 cannot be loaded" in said
    assert "No module named 'nothing_of_this_name'" in said
    assert "Reinstall bad (an editable install too" in said


def test_a_hook_that_fails_breaks_its_own_kind_only(make_distribution: MakeDistribution) -> None:
    source = codec_source("red") + BROKEN_HOOK
    registry = Registry.load([make_distribution("half", {"half": "half_hooks"}, half_hooks=source)])
    assert registry.get("codec", "red").name == "red"
    with pytest.raises(PluginError, match=r"plugin 'half' of half 1\.2 cannot say which storage it brings"):
        registry.get("storage", "mine")


def test_a_hook_of_an_unknown_name_makes_its_plugin_broken(make_distribution: MakeDistribution) -> None:
    source = codec_source("red").replace("disheap_register_codec", "disheap_register_codex")
    typo = make_distribution("typo", {"typo": "typo_hooks"}, typo_hooks=source)
    good = make_distribution("good", {"good": "good_hooks"}, good_hooks=codec_source("blue"))
    registry = Registry.load([typo, good])
    assert registry.names("codec") == ("blue",)
    with pytest.raises(PluginError, match="disheap_register_codex"):
        registry.get("codec", "red")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"red", 1,', '"red", 2,', r"says api = 2, and this disheap speaks 1"),
        ('"red", 1,', '"", 1,', r"has no usable `name`"),
        ('"red", 1,', '"red+blue", 1,', r"has no usable `name`: 'red\+blue'"),
        ("1, Settings", "1, dict", r"has no `Settings`"),
        ("def new_stream", "def old_stream", r"lacks the method new_stream\(context\)"),
        ("return Mark", "return [Mark(Settings(), None)]", r"is not a class"),
        ("return Mark", "return None", r"not iterable"),
    ],
)
def test_a_class_that_does_not_fit_is_refused_with_the_reason(
    make_distribution: MakeDistribution, old: str, new: str, said: str
) -> None:
    source = codec_source("red")
    assert old in source
    registry = Registry.load([make_distribution("odd", {"odd": "odd_hooks"}, odd_hooks=source.replace(old, new))])
    assert registry.names("codec") == ()
    with pytest.raises(PluginError, match=rf"(?s)plugin 'odd' of odd 1\.2.*{said}"):
        registry.get("codec", "red")


def test_settings_come_from_the_plugins_own_table(make_distribution: MakeDistribution) -> None:
    registry = Registry.load([make_distribution("red", {"red": "red_hooks"}, red_hooks=codec_source("red"))])
    context = CodecContext(random.Random(1))
    built = registry.build("codec", "red", {"red": {"level": 7}, "blue": {"level": 1}}, context)
    assert built.settings.level == 7
    assert registry.build("codec", "red", {}, context).settings.level == 3


async def test_what_a_plugin_says_of_its_settings_is_said_of_its_table() -> None:
    loop = asyncio.get_running_loop()
    tables = {"tls": {"cafile": "/no", "certfile": "/no", "keyfile": "/no"}}
    with pytest.raises(ConfigError, match=r"my\.toml: \[transport\.tls\] cafile = /no cannot be used: no such file"):
        Registry.load().build("transport", "tls", tables, TransportContext(loop), "my.toml")


def test_a_wrong_setting_names_key_table_and_file(make_distribution: MakeDistribution) -> None:
    registry = Registry.load([make_distribution("red", {"red": "red_hooks"}, red_hooks=codec_source("red"))])
    with pytest.raises(
        ConfigError, match=r"my\.toml: unknown setting 'leve' in \[codec\.red\].*mean level\?.*level, words"
    ):
        registry.settings("codec", "red", {"leve": 1}, "my.toml")
    with pytest.raises(ConfigError, match=r"my\.toml: \[codec\.red\] level = 10 does not fit: Expected `int` <= 9"):
        registry.settings("codec", "red", {"level": 10}, "my.toml")
    with pytest.raises(ConfigError, match=r"level = '3' does not fit"):
        registry.settings("codec", "red", {"level": "3"}, "my.toml")


def test_a_plugin_can_be_described(make_distribution: MakeDistribution) -> None:
    registry = Registry.load([make_distribution("red", {"red": "red_hooks"}, red_hooks=codec_source("red"))])
    level, words = describe_plugin(registry.get("codec", "red"))
    assert level == ("level", "int", "3", ">= 1, <= 9", "how much")
    assert words == ("words", "list of str", "[]", "", "")


@pytest.mark.parametrize(("kind", "name"), list(SHIPPED))
def test_every_shipped_plugin_can_be_described(kind: str, name: str) -> None:
    for setting in describe_plugin(Registry.load().get(kind, name)):
        assert setting.type
        assert setting.bounds or setting.type not in ("int", "float")


LAZY = """
import sys
from disheap.plugins.registry import Registry
Registry.load().get("transport", "tcp")
print(*sorted(name for name in sys.modules if name.startswith("disheap")))
"""


def test_a_client_that_wants_a_transport_loads_no_storage_codec_or_machine(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LAZY], capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path
    )
    loaded = run.stdout.split()
    assert "disheap_tcp.tcp" in loaded
    assert "disheap_heap.hooks" in loaded
    hooks_alone = ("disheap_heap", "disheap_filelog", "disheap_codecs", "disheap_memory.storage")
    implementations = [name for name in loaded if name.startswith(hooks_alone) and "." in name]
    assert [name for name in implementations if not name.endswith(".hooks")] == []
    assert [name for name in loaded if name.startswith(("disheap.runtime", "disheap.testing", "disheap.cli"))] == []
