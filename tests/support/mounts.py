"""A directory seen at a second path, or covered, by a bind mount. Needs root on Linux."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def why_no_bind_mounts() -> str:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a bind mount needs root"
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "source"), Path(name, "target")
        source.mkdir(), target.mkdir()
        try:
            with bind_mount(source, target):
                return ""
        except (OSError, subprocess.CalledProcessError) as error:
            return f"this kernel or its owner allows no bind mounts: {error}"


@contextmanager
def bind_mount(source: Path, target: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", str(source), str(target)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True, capture_output=True)
