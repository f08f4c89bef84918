"""Starts a broker, a producer and a consumer: `python run.py`."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from launcher import Example  # noqa: E402


def main() -> None:
    """Runs the example to its end."""
    with Example(HERE) as example:
        example.run("producer", "producer.py")
        example.run("consumer", "consumer.py")


if __name__ == "__main__":
    main()
