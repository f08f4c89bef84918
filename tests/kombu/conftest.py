from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from threading import Thread
from types import SimpleNamespace

import pytest
from kombu_fakes import FakeDriver

from disheap_kombu.channel import Channel
from disheap_kombu.connection import Connection


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def connection(driver: FakeDriver) -> Iterator[Connection]:
    connection = Connection(driver, SimpleNamespace(declared_entities=set()))  # type: ignore[arg-type]
    yield connection
    connection.close()
    driver.close()


@pytest.fixture
def channel(connection: Connection) -> Channel:
    return connection.channel()


@pytest.fixture
def keepalive_threads() -> Callable[[], list[Thread]]:
    """Lists the keepalive threads that this test has started. Tests before it may have left others."""
    before = set(threading.enumerate())
    return lambda: [one for one in threading.enumerate() if one.name == "disheap-keepalive" and one not in before]
