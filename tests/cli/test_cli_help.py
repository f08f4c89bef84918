"""The first thing that anybody types."""

from __future__ import annotations

import resource
import subprocess
import sys

import click
import pytest

from disheap.cli.main import COMMANDS, cli
from tests.cli.command_line import environment, run, run_process

HELP_CPU_S = 0.3
NOBODY = "disheap://127.0.0.1:1?timeout_s=0.01"


def commands() -> list[tuple[str, click.Command]]:
    """Every command with its path, those of a group too."""
    found: list[tuple[str, click.Command]] = []
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        inner = command.commands if isinstance(command, click.Group) else {}
        found += [(name, command), *((f"{name} {each}", inner[each]) for each in inner)]
    return found


LEAVES = [(path, command) for path, command in commands() if not isinstance(command, click.Group)]


def test_the_help_names_every_command() -> None:
    for words in ((), ("--help",), ("-h",)):
        ended = run(*words)
        assert ended.code == 0 and ended.err == ""
        assert [line.split()[0] for line in ended.text.partition("Commands:\n")[2].splitlines()] == list(COMMANDS)


def test_the_help_loads_no_client_and_no_server() -> None:
    code = (
        "import sys; from disheap.cli.main import main; main(['--help'])\n"
        "print([m for m in ('asyncio', 'msgspec', 'rich', 'structlog', 'pluggy', 'disheap.client', 'disheap.runtime')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_help_costs_less_than_a_third_of_a_second() -> None:
    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_process("--help").code == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(cpu_s() for _ in range(3)) < HELP_CPU_S


def test_a_client_loads_no_server() -> None:
    code = (
        f"import sys; from disheap.cli.main import main; main(['topic', 'ls', '--url', '{NOBODY}'])\n"
        "print([m for m in ('disheap.runtime', 'disheap_heap.machine', 'disheap_filelog.storage')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[path for path, _ in LEAVES])
def test_each_command_has_an_example_json_and_verbose(path: str, command: click.Command) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--verbose"} <= options
    assert f"Example: disheap {path}" in (command.help or "")


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[path for path, _ in LEAVES])
def test_each_option_says_what_it_is_for(path: str, command: click.Command) -> None:
    silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert silent == []


def test_the_version_is_the_packages() -> None:
    import disheap

    assert run("--version").text == f"disheap {disheap.__version__}\n"


def test_python_can_run_the_package() -> None:
    assert run_process("--version").text == run("--version").text
