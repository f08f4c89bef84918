"""Appends in a process of its own: `python -m disheap.testing.conformance.storage_child`.

Reads one JSON object from the first line of standard input: `storage`, `codec` and their `tables`, the `directory`, the
`first` index, and `room_bytes`. By so many bytes a file may outgrow the largest that is there (0: no limit). Prints
every index once it is durable, until it is killed, 2,000 entries are there, or the storage raises. Then it prints the
name of the error.
"""

from __future__ import annotations

import json
import random
import resource
import sys
from pathlib import Path

from disheap.errors import StorageError
from disheap.interfaces import CodecContext, StorageContext
from disheap.kernel.types import HardState, NodeId, Term
from disheap.plugins.registry import Registry
from disheap.plugins.settings import Text
from disheap.testing.conformance.storage_parts import IDENTITY, entries
from disheap.testing.fixtures import SystemClock

ENTRIES = 2000
ENTRY_BYTES = 300


def main() -> None:
    """Reads the request, opens the storage, and appends until it is killed, is done, or the storage raises."""
    asked = json.loads(sys.stdin.readline())
    tables = {kind: {name: _texts(table) for name, table in asked["tables"][kind].items()} for kind in asked["tables"]}
    registry, seed = Registry.load(), asked["first"]
    codec = registry.codec(asked["codec"], tables["codec"], CodecContext(random.Random(seed)), "--disheap-set")
    context = StorageContext(asked["directory"], codec, asked["codec"], SystemClock(), random.Random(seed))
    storage = registry.build("storage", asked["storage"], tables["storage"], context, "--disheap-set")
    storage.open(IDENTITY, 0, alone=False)
    storage.save_hard_state(HardState(Term(9), NodeId(1)))
    if asked["room_bytes"]:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (_largest(Path(asked["directory"])) + asked["room_bytes"], hard))
    try:
        for index in range(asked["first"], asked["first"] + ENTRIES):
            storage.append(entries(index, index, size=ENTRY_BYTES))
            print(index, flush=True)
    except StorageError as error:
        print(type(error).__name__, flush=True)


def _largest(directory: Path) -> int:
    return max((path.stat().st_size for path in directory.rglob("*") if path.is_file()), default=0)


def _texts(table: dict[str, str]) -> dict[str, Text]:
    return {key: Text(value, "--disheap-set") for key, value in table.items()}


if __name__ == "__main__":
    main()
