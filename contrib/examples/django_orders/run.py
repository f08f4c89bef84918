"""Starts a broker, Django, a worker, beat and Flower: `python run.py`. Ctrl-C stops all of them.

With `--check` it orders something, waits until it is packed and counted, looks at Flower, and ends.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from launcher import Example  # noqa: E402

CELERY = ("-m", "celery", "--quiet", "-A", "website")
WAIT_S = 60.0
LOOK_EVERY_S = 0.2


def main() -> None:
    """Runs the example until Ctrl-C, or until `--check` is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="try it, and end")
    check = parser.parse_args().check
    site, flower = _free_port(), _free_port()
    with tempfile.TemporaryDirectory(prefix="django-orders-") as directory, Example(HERE) as example:
        example.environment.update(ORDERS_DATABASE=f"{directory}/orders.sqlite3", FLOWER_UNAUTHENTICATED_API="true")
        example.run("migrate", "manage.py", "migrate", "--verbosity", "0")
        example.start("django", "manage.py", "runserver", "--noreload", f"127.0.0.1:{site}")
        example.start("worker", *CELERY, "worker", "--loglevel", "WARNING", "--concurrency", "2")
        example.start("beat", *CELERY, "beat", "--loglevel", "WARNING", "--schedule", f"{directory}/beat")
        example.start("flower", *CELERY, "flower", "--address=127.0.0.1", f"--port={flower}", "--logging=warning")
        print(f"orders: http://127.0.0.1:{site}/orders/", f"flower: http://127.0.0.1:{flower}/", sep="\n", flush=True)
        if check:
            _check(example, site, flower)
        else:
            _wait_for_interrupt(example, site)


def _check(example: Example, site: int, flower: int) -> None:
    """Orders twice, and waits for what must come of it."""
    orders = f"http://127.0.0.1:{site}/orders/"
    wait = _Waiter(example)
    wait.until(lambda: "orders" in _get(orders), "Django answers")
    numbers = [_post(orders, item="a lamp")["id"], _post(orders, item="a book", express="1")["id"]]
    for number in numbers:
        wait.until(lambda url=f"{orders}{number}/": _get(url)["task"] == "SUCCESS", f"order {number} is packed")
    print(_get(f"{orders}{numbers[0]}/")["result"], flush=True)
    workers = f"http://127.0.0.1:{flower}/api/workers?refresh=1"
    wait.until(lambda: len(_get(workers)) == 1, "Flower sees the worker")
    tasks = f"http://127.0.0.1:{flower}/api/tasks"
    wait.until(lambda: "orders.tasks.count_orders" in str(_get(tasks)), "Flower sees a task of beat")


class _Waiter:
    """Waits for conditions, and says when each holds."""

    def __init__(self, example: Example) -> None:
        self._example = example

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Asks until it holds. Ends the example if that takes too long."""
        deadline = time.monotonic() + WAIT_S
        while True:
            self._example.check_running()
            try:
                if holds():
                    break
            except (OSError, ValueError):  # it does not listen yet, or is not ready
                pass
            if time.monotonic() > deadline:
                sys.exit(f"after {WAIT_S:g} s it does not hold: {what}")
            time.sleep(LOOK_EVERY_S)
        print(f"{what}: yes", flush=True)


def _wait_for_interrupt(example: Example, site: int) -> None:
    print(f"order something: curl -d item=lamp -d express=1 http://127.0.0.1:{site}/orders/", flush=True)
    try:
        while True:
            example.check_running()
            time.sleep(1.0)
    except KeyboardInterrupt:
        print("stopping", flush=True)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5.0) as answer:
        return json.load(answer)


def _post(url: str, **fields: str) -> Any:
    with urllib.request.urlopen(url, urllib.parse.urlencode(fields).encode(), timeout=5.0) as answer:
        return json.load(answer)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
