"""What a client loads, and what it must not: a producer is not a server."""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVER = (
    "disheap.runtime",
    "disheap.cli.",
    "disheap_heap.",
    "disheap_filelog.",
    "disheap_codecs.",
    "uvloop",
    "structlog",
)

USE = {
    "nothing": "import disheap",
    "asyncio": """
import asyncio, disheap
async def main():
    try:
        await disheap.connect('disheap://127.0.0.1:1', timeout_s=0.05)
    except disheap.errors.ConnectionLost:
        print('tried')
asyncio.run(main())""",
    "blocking": """
import disheap.sync, disheap.errors
try:
    disheap.sync.connect('disheap://127.0.0.1:1', timeout_s=0.05)
except disheap.errors.ConnectionLost:
    print('tried')""",
}


def run(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code + "\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize("use", ["asyncio", "blocking"])
def test_a_client_loads_no_server(use: str) -> None:
    said = run(USE[use])
    assert said[0] == "tried"
    loaded = [name for name in said if name.startswith(SERVER) and not name.endswith(".hooks")]
    assert loaded == []
    kernel = [name for name in said if name.startswith("disheap.kernel")]
    assert set(kernel) <= {"disheap.kernel", "disheap.kernel.types"}


def test_importing_disheap_loads_next_to_nothing() -> None:
    said = run(USE["nothing"])
    assert not [name for name in said if name.startswith(("disheap.client", "disheap.protocol", "msgspec", "asyncio"))]


def test_the_exports_are_there_and_others_are_not() -> None:
    import disheap

    assert set(disheap.__all__) == {*disheap._HOMES, *disheap._MODULES}
    assert {*disheap.__all__, "__version__"} <= set(dir(disheap)), "before anything of it has been loaded"
    for name in disheap.__all__:
        assert getattr(disheap, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        disheap.nonsense  # noqa: B018
