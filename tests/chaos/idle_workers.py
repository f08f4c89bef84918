"""What idle Celery workers cost a node: entries and fdatasyncs a second, and what the entries say.

    python -m tests.chaos.idle_workers WORKERS [options of `celery worker`]

One node with files in this process; workers of `tests/kombu/kombu_app.py` with the solo pool, each a process. It is no
test: the figures belong to a machine, and the counts to a version of Celery.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from disheap.config.node_config import NodeConfig
from disheap.kernel.types import Entry
from disheap.protocol import broker
from disheap.protocol.frames import ENVELOPE, Flags, Kind
from disheap.testing.inspected import InspectedMember

APP = Path(__file__).parents[1] / "kombu"
START_S, MEASURE_S = 25.0, 30.0


class Meter:
    """Counts while `is_on`."""

    def __init__(self) -> None:
        self.is_on = False
        self.entries = self.syncs = 0
        self.said: Counter[str] = Counter()

    def watch_syncs(self) -> None:
        sync = os.fdatasync

        def counted(descriptor: int) -> None:
            self.syncs += self.is_on
            sync(descriptor)

        os.fdatasync = counted

    def watch_entries(self, node: InspectedMember) -> None:
        applying = node.group.sessions.applying

        def counted(entry: Entry) -> Iterator[None]:
            if self.is_on:
                self.entries += 1
                self.said.update(_told(entry.data))
            return applying(entry)

        node.group.sessions.applying = counted  # type: ignore[method-assign]


def _told(data: bytes) -> list[str]:
    told, position = [], 0
    while position < len(data):
        length, kind, flags, *_ = ENVELOPE.unpack_from(data, position)
        body = data[position + ENVELOPE.size : position + 4 + length]
        position += 4 + length
        told.append(_command(body, flags) if kind == Kind.COMMAND else Kind(kind).name)
    return told


def _command(body: bytes, flags: int) -> str:
    command = broker.decode_command.decode(body)
    where = f" {command.exchange} {command.routing_key}" if isinstance(command, broker.Publish) else ""
    return f"{type(command).__name__}{where}{' transient' if flags & Flags.TRANSIENT else ''}"


async def measure(workers: int, options: list[str], start_s: float = START_S, measure_s: float = MEASURE_S) -> Meter:
    meter = Meter()
    meter.watch_syncs()
    with tempfile.TemporaryDirectory() as directory:
        config = NodeConfig(name="n1", alone=True, data_dir=directory, client_listen="127.0.0.1:0", log_level="error")
        async with InspectedMember(config) as node:
            meter.watch_entries(node)
            processes = [_worker(node.client_address, number, options) for number in range(workers)]
            try:
                await asyncio.sleep(start_s)
                meter.is_on = True
                await asyncio.sleep(measure_s)
                meter.is_on = False
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
    return meter


def _worker(address: str, number: int, options: list[str]) -> subprocess.Popen[Any]:
    program = [sys.executable, "-m", "celery", "-A", "kombu_app", "worker", "-P", "solo", "-n", f"w{number}@here"]
    environment = {**os.environ, "BROKER": f"disheap://{address}", "C_FORCE_ROOT": "1", "PYTHONWARNINGS": "ignore"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*program, *options], cwd=APP, env=environment, stdout=quiet, stderr=quiet)


def main() -> None:
    workers, options = int(sys.argv[1]), sys.argv[2:]
    started = time.monotonic()
    meter = asyncio.run(measure(workers, options))
    print(f"{workers} workers {' '.join(options)}: {meter.entries / MEASURE_S:.2f} entries/s, ", end="")
    print(f"{meter.syncs / MEASURE_S:.2f} fdatasync/s ({time.monotonic() - started:.0f} s)")
    for said, count in meter.said.most_common():
        print(f"  {count / MEASURE_S:8.2f}/s  {said}")


if __name__ == "__main__":
    main()
