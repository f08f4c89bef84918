"""What the transport tells the broker about whose session it is."""

from __future__ import annotations

import os
import socket
import sys
from types import SimpleNamespace

import pytest

from disheap_kombu import transport
from disheap_kombu.labels import LABEL_CHARACTERS, default_label
from kombu import Connection


@pytest.fixture
def opened(monkeypatch):
    """The URLs of the clients that are opened; none of them connects."""
    urls = []

    class Client:
        address = ""
        is_over = False
        session_id = 1
        on_socket_change = None

        def __init__(self, url, client):
            urls.append(url)

        def connect(self, timeout_s=None): ...
        def take_pushes(self): ...
        def collect(self): ...
        def abort_in_child(self): ...

    monkeypatch.setattr(transport, "BlockingClient", Client)
    return urls


@pytest.fixture
def worker_name(monkeypatch):
    def set_name(kept):
        monkeypatch.setitem(sys.modules, "celery.app.trace", SimpleNamespace(_localized=kept))

    return set_name


def test_a_label_names_the_host_and_the_process_without_celery(worker_name):
    worker_name([])
    assert default_label() == f"kombu {socket.gethostname()}, pid {os.getpid()}"


def test_a_label_names_the_celery_worker(worker_name):
    worker_name([{}, {"json"}, "w1@here"])
    assert default_label() == f"celery w1@here, pid {os.getpid()}"


@pytest.mark.parametrize("kept", [None, [{}], [{}, None], [{}, 7], {}])
def test_another_celery_is_no_error(worker_name, kept):
    worker_name(kept)
    assert default_label().startswith("kombu ")


def test_a_long_name_leaves_the_process_id_in_the_label(worker_name):
    worker_name([{}, "w" * 300])
    assert len(default_label()) == LABEL_CHARACTERS and default_label().endswith(f", pid {os.getpid()}")


@pytest.mark.parametrize(
    ("url", "options", "label"),
    [
        ("disheap://h1", {}, None),
        ("disheap://h1?label=shop", {}, "shop"),
        ("disheap://h1", {"label": "shop"}, "shop"),
        ("disheap://h1?label=shop", {"label": "other"}, "shop"),
    ],
)
def test_a_url_or_an_option_sets_the_label(opened, worker_name, url, options, label):
    worker_name([])
    Connection(url, transport_options=options).connect()
    assert opened[0].label == (label or default_label())
