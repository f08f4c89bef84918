"""Plays the script of the machine suite in a process of its own: `python -m disheap.testing.conformance.machine_child`.

Reads one JSON object from standard input: `name` and `settings` of the machine, the `seeds`, `shift_s` by which all
clocks are ahead, and `disorder`. Prints for each seed one digest after each call, as a JSON list of lists. Two
processes with other hash seeds, clocks and places in memory have to print the same.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

_CLOCKS = {"time": 1, "monotonic": 1, "perf_counter": 1, "time_ns": 10**9, "monotonic_ns": 10**9}
"""Functions of the module `time`, and what a second is in each."""
CROWD = 20_000
"""Objects of each size that are made, half of them freed: later ones take places in another order."""


def main() -> None:
    """Reads the request, shifts the clocks, and prints the digests."""
    asked = json.loads(sys.stdin.read())
    for name, second in _CLOCKS.items():  # before the plugin is imported, which may keep the function itself
        setattr(time, name, _shifted(getattr(time, name), asked["shift_s"] * second))
    crowd = _crowd() if asked["disorder"] else []
    print(json.dumps([_digests(asked["name"], asked["settings"], seed) for seed in asked["seeds"]]))
    del crowd


def _shifted(clock: Callable[[], Any], by: int) -> Callable[[], Any]:
    return lambda: clock() + by


def _crowd() -> list[object]:
    made: list[object] = []
    for size in range(0, 20, 2):
        made += [[None] * size for _ in range(CROWD // 10)]
        made += [dict.fromkeys(range(size)) for _ in range(CROWD // 10)]
    random.Random(1).shuffle(made)
    del made[::2]
    return made


def _digests(name: str, settings: dict[str, str], seed: int) -> list[str]:
    from disheap.interfaces import MachineContext, Sampling
    from disheap.plugins.registry import Registry
    from disheap.plugins.settings import Text
    from disheap.testing.conformance.machine_calls import play, script

    tables = {name: {key: Text(value, "--disheap-set") for key, value in settings.items()}}
    machine = Registry.load().build("machine", name, tables, MachineContext(), "--disheap-set")
    machine.set_version(machine.versions[1])
    commands = list(machine.sample_commands()) if isinstance(machine, Sampling) else []
    digests: list[str] = []
    for index, step in enumerate(script(commands, seed)):
        outcome = (play(machine, step, index), machine.state_hash())
        digests.append(hashlib.blake2b(repr(outcome).encode(), digest_size=8).hexdigest())
    return digests


if __name__ == "__main__":
    main()
