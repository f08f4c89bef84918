"""The reference pages say everything that there is, and nothing that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import click
import msgspec
import pytest

from disheap.cli.terminal import failures
from disheap.config.node_config import Limits, MemberConfig, MetricsConfig, NodeConfig, RaftConfig, load
from disheap.config.sources import _SEED_NAMES
from disheap.plugins.settings import describe
from tests.cli.test_cli_errors import every_error
from tests.cli.test_cli_help import LEAVES

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
CLI = (REFERENCE / "cli.md").read_text()
CONFIGURATION = (REFERENCE / "configuration.md").read_text()
SHARED = {"--json", "-v", "--verbose", "--url", "-h", "--help"}
NOT_SET_BY_HAND = {"raft", "limits", "metrics", "plugins", "source"}


def section(page: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    assert found, f"the page has no section {title!r}"
    return found[1]


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[path for path, _ in LEAVES])
def test_each_command_has_its_section_with_options_example_and_json(path: str, command: click.Command) -> None:
    text = section(CLI, f"disheap {path}")
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    long = {option for option in options - SHARED if option.startswith("--")} - {"--members", "--join-addresses"}
    assert {option for option in long if not re.search(rf"`[^`]*{option}\b|\.\s{option}\b", text)} == set()
    assert re.search(rf"^    (.*\| )?disheap {path}", text, re.M)
    assert "--json`" in text


def test_no_section_is_about_a_command_that_is_not_there() -> None:
    assert set(re.findall(r"^## disheap (.+)$", CLI, re.M)) == {path for path, _ in LEAVES}


def test_every_exit_code_is_documented() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", section(CLI, "What all commands share"), re.M)}
    own = {value for name, value in vars(failures).items() if name.startswith("EXIT_")}
    assert documented == own | {kind.exit_code for kind in every_error()}


@pytest.mark.parametrize(
    ("title", "struct"),
    [
        ("The node", NodeConfig),
        ("`[[members]]`", MemberConfig),
        ("`[raft]`", RaftConfig),
        ("`[limits]`", Limits),
        ("`[metrics]`", MetricsConfig),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_setting_is_in_the_page_with_its_default_and_bounds(title: str, struct: type[msgspec.Struct]) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section(CONFIGURATION, title), re.M))
    settings = [setting for setting in describe(struct) if setting.name not in NOT_SET_BY_HAND]
    assert list(rows) == [setting.name for setting in settings]
    for setting in settings:
        kind, default, bounds, why = re.split(r" (?<!\\)\| ", rows[setting.name])
        assert kind.replace("\\|", "|") == setting.type
        assert default == (f"`{setting.default}`" if setting.default else "required")
        assert (bounds.strip(), bool(why)) == (setting.bounds, True)


def test_the_other_names_in_the_environment_are_those_that_are_read() -> None:
    assert dict(re.findall(r"^\| `([A-Z_]+)` \| `(\w+)` \|$", CONFIGURATION, re.M)) == _SEED_NAMES


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", CONFIGURATION, re.S)
    (tmp_path / "disheap.toml").write_text(example)
    config = load(tmp_path / "disheap.toml", {}, {})
    assert config.own_member().client == config.client_listen
    assert config.raft.election_timeout_ms == 1500 and config.table("transport")["tls"]["cafile"]
