"""A distribution that disheap does not know (`tests/stranger/`): installed, it is found, configured, and passes.

Install it with `pip install --no-deps tests/stranger`; tox does.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from disheap.errors import ConfigError
from disheap.interfaces import CodecContext, Provenance, StreamContext, TransportContext
from disheap.plugins.registry import Registry

CONFORMANCE_S = 100
CONTEXT = CodecContext(random.Random(1))


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    try:
        metadata.distribution("disheap-stranger")
    except metadata.PackageNotFoundError:
        pytest.fail("disheap-stranger is not installed: pip install --no-deps tests/stranger", pytrace=False)


def test_a_stranger_is_listed_with_its_distribution() -> None:
    origins = {(row.kind, row.name): row.provenance for row in Registry.load().listing()}
    for identity in (("codec", "xor"), ("transport", "muffled")):
        assert origins[identity] == Provenance("disheap-stranger", "1.0", "stranger")


def test_a_stranger_is_configured_from_its_table() -> None:
    codec = Registry.load().codec("xor", {"xor": {"key": 1}}, CONTEXT)
    preamble, stream = codec.new_stream(StreamContext("segment", "one"))
    assert preamble == b"xor1\x01"
    assert stream.encode(b"abc", 0) == b"\x26`cb"
    with pytest.raises(ConfigError, match=r"\[codec\.xor\] key = 256 does not fit"):
        Registry.load().codec("xor", {"xor": {"key": 256}}, CONTEXT)


def test_a_stranger_chains_with_what_is_shipped() -> None:
    codec = Registry.load().codec("zstd+xor", {}, CONTEXT)
    preamble, stream = codec.new_stream(StreamContext("segment", "one"))
    again = codec.open_stream(preamble, StreamContext("segment", "one"))
    assert again.decode(stream.encode(b"words " * 100, 7), 7, 600) == b"words " * 100


async def test_a_strangers_transport_is_built_like_any_other() -> None:
    context = TransportContext(asyncio.get_running_loop())
    transport = Registry.load().build("transport", "muffled", {"muffled": {"piece_bytes": 3}}, context)
    assert transport.name == "muffled"


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("test_transport", ["--disheap-transport", "muffled", "--disheap-set", "transport.muffled.piece_bytes=1000"]),
        ("test_codec", ["--disheap-codec", "xor", "--disheap-set", "codec.xor.key=7"]),
        ("test_codec", ["--disheap-codec", "zstd+xor"]),
    ],
)
def test_a_stranger_passes_the_conformance_suite(tmp_path: Path, module: str, options: list[str]) -> None:
    """From an empty directory, as its own author would: no configuration of this project is in reach."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--pyargs"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    run = subprocess.run(
        [*command, f"disheap.testing.conformance.{module}", *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
        timeout=CONFORMANCE_S,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
