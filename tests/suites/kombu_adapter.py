"""kombu's integration suite over disheap. `kombu_suite.py` puts this file beside kombu's `t/integration/common.py`.

Each class of `common.py` becomes a class of tests here, whatever classes the installed version has.
"""

from __future__ import annotations

import os
import sys

import pytest

import kombu

from . import common  # type: ignore[attr-defined]

CLUSTER = os.environ.get("SUITE_BROKER", "disheap://localhost")
LIVE = os.environ.get("SUITE_LEADER", CLUSTER)
"""The URL of one node. The session is at the leader, whose port kombu's tests expect."""
DEAD = "disheap://127.0.0.1:12345"


@pytest.fixture
def connection() -> kombu.Connection:
    """A connection to the cluster."""
    return kombu.Connection(CLUSTER)


@pytest.fixture
def invalid_connection() -> kombu.Connection:
    """A connection to a port where nothing listens."""
    return kombu.Connection(DEAD, connect_timeout=1)


@pytest.fixture
def failover_connection() -> kombu.Connection:
    """A connection whose first URL is dead."""
    return kombu.Connection(f"{DEAD};{LIVE}")


for _name, _suite in list(vars(common).items()):
    if isinstance(_suite, type) and _suite.__module__ == common.__name__:
        setattr(sys.modules[__name__], f"Test{_name}", type(f"Test{_name}", (_suite,), {"__module__": __name__}))
