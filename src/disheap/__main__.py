"""`python -m disheap` is the command `disheap`, under the interpreter at hand."""

from __future__ import annotations

import sys

from disheap.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
