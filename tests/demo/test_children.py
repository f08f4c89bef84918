"""Children, signals and progress: nothing is left behind, and nothing is said twice."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path

import pytest

from disheap.cli.processes.children import Child, Children
from disheap.cli.processes.interrupts import SIGNALS, Interrupts
from disheap.cli.terminal.progress import LINE_EVERY_S, Lines, show

FORKS = """
import os, sys, time
if os.fork() == 0:
    print(os.getpid(), flush=True)
    time.sleep(600)
os.wait()
"""


def child(tmp_path: Path, code: str) -> Child:
    return Child("c", [sys.executable, "-c", code], tmp_path / "c.log", os.environ)


def wait_for_text(path: Path) -> str:
    """A child has no other way to say that it is so far; a hung one ends by the test's timeout."""
    while not (text := path.read_text()).endswith("\n"):
        os.sched_yield() if hasattr(os, "sched_yield") else None
    return text


def is_gone(pid: int) -> bool:
    """Dead, or dead and waiting for a parent to take note of it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_a_child_forked_is_killed_with_it(tmp_path: Path) -> None:
    with Interrupts() as interrupts:
        children = Children(interrupts)
        parent = children.start(child(tmp_path, FORKS))
        grandchild = int(wait_for_text(tmp_path / "c.log"))
        assert not is_gone(grandchild)
        children.kill()
    while not is_gone(grandchild):  # its new parent takes note of it in its own time
        pass
    assert parent.exit_code() == -signal.SIGKILL


def test_a_child_that_ignores_sigterm_is_killed_when_its_time_is_up(tmp_path: Path) -> None:
    stubborn = child(
        tmp_path, "import signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
    )
    stubborn.start()
    wait_for_text(tmp_path / "c.log")
    assert stubborn.stop(within_s=0.05) == -signal.SIGKILL
    stubborn.kill()  # twice is fine


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    talker = child(tmp_path, "print('one'); print('two'); print('three')")
    assert talker.tail(2) == ""
    talker.start()
    assert talker.stop(within_s=10) in (0, -signal.SIGTERM)
    (tmp_path / "c.log").write_text("one\ntwo\nthree\n")
    assert talker.tail(2) == "two\nthree"


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_that_ends_a_command_interrupts_it(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_signal_is_held_until_the_last_held_block_is_done() -> None:
    done: list[str] = []

    def clear_away(interrupts: Interrupts) -> None:
        with interrupts.held():
            with interrupts.held():
                os.kill(os.getpid(), signal.SIGINT)
                done.append("inner")
            done.append("outer")
        done.append("never")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        clear_away(interrupts)
    assert done == ["inner", "outer"]


def test_plain_lines_say_when_a_stage_begins_how_it_goes_and_when_it_is_full() -> None:
    stream, now = io.StringIO(), [0.0]
    lines = Lines(stream, clock=lambda: now[0])
    lines.stage("running", 100)
    lines.at(10)  # too soon after the last line
    now[0] += LINE_EVERY_S
    lines.at(20)
    lines.at(20)
    lines.note("something")
    lines.at(100)
    lines.at(100)
    lines.stage("stopping")
    assert stream.getvalue().splitlines() == [
        "running: 0 of 100",
        "running: 20 of 100",
        "  something",
        "running: 100 of 100",
        "stopping ...",
    ]


def test_bars_are_for_terminals_and_lines_for_the_rest() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(show(io.StringIO()), Lines)
    terminal = Terminal()
    with show(terminal) as bars:
        bars.stage("starting")
        bars.stage("running", 4)
        bars.at(4)
        bars.note("killed [leader]")
    assert "4/4" in terminal.getvalue()
    assert "killed [leader]" in terminal.getvalue()
