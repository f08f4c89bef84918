"""`python -m tests.storage.appender DIRECTORY FIRST` appends entries from FIRST on and prints each once durable."""

from __future__ import annotations

import sys
from itertools import count

from tests.storage.parts import entry, opened


def main() -> None:
    storage = opened(None, sys.argv[1])
    for index in count(int(sys.argv[2])):
        storage.append([entry(index)])
        print(index, flush=True)


if __name__ == "__main__":
    main()
