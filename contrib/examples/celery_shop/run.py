"""Starts a broker and a worker, and lets the shop send its tasks: `python run.py`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from launcher import Example  # noqa: E402


def main() -> None:
    """Runs the example to its end."""
    with Example(HERE) as example:
        options = ("--concurrency", "1", "--loglevel", "WARNING")
        example.start("worker", "-m", "celery", "--quiet", "-A", "tasks", "worker", *options)
        example.run("shop", "shop.py")


if __name__ == "__main__":
    main()
