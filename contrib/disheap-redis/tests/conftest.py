"""A redis-server of the tests' own, on a free port and in its own directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_process import RedisProcess


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisProcess]:
    """Started, with appendfsync always."""
    with RedisProcess(tmp_path / "redis") as server:
        yield server
