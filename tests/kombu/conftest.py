from __future__ import annotations

import threading
from collections.abc import Iterator
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
    for thread in threading.enumerate():  # the next test counts those that are its own
        if thread.name == "disheap-keepalive":
            thread.join(5)


@pytest.fixture
def channel(connection: Connection) -> Channel:
    return connection.channel()
