"""A pytest plugin: each process of pytest-xdist gets the broker and the backend that are its own.

`PLACES` holds a JSON list of environments, one for each process. Celery's `conftest.py` reads the environment when it
is imported.
"""

from __future__ import annotations

import json
import os

import pytest

PLACES = "SUITE_PLACES"
WORKER = "PYTEST_XDIST_WORKER"
"""`gw0`, `gw1` and so on; absent without pytest-xdist, and in the process that distributes the tests."""


def place(environ: dict[str, str]) -> dict[str, str]:
    """The environment of this process."""
    if PLACES not in environ:
        return {}
    places: list[dict[str, str]] = json.loads(environ[PLACES])
    return places[int(environ.get(WORKER, "gw0").removeprefix("gw"))]


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Comes before the first `conftest.py` is imported."""
    os.environ.update(place(dict(os.environ)))
