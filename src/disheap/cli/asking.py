"""Clients for the commands. One place that turns what was typed into a connection."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from disheap.cli.options import Invocation
from disheap.errors import NotLeader

if TYPE_CHECKING:
    from disheap.client.url import BrokerUrl
    from disheap.sync import Client

LOOK_AGAIN_S = 0.2
"""Between two looks for a leader."""

CONNECT_TIMEOUT_S = 10.0
"""To a session: an election takes two to three seconds, and somebody is waiting at a terminal."""


def connect(invocation: Invocation) -> Client:
    """A client with a session at the leader. `timeout_s` in the URL has its say over requests and over connecting."""
    from disheap import sync
    from disheap.client.url import BrokerUrl, parse

    url = parse(invocation.broker_url)
    given = url.timeout_s if url.timeout_s != BrokerUrl().timeout_s else CONNECT_TIMEOUT_S
    return sync.connect(url, timeout_s=given, label="disheap command")


def ask_leader(invocation: Invocation, request: dict[str, Any]) -> dict[str, Any]:
    """The leader's answer to an admin request. Opens no session, so it works when there are too many. Raises what the
    leader refuses, `ConnectionLost`, and `NotLeader` where none is found within `CONNECT_TIMEOUT_S`."""
    from disheap.client.url import parse

    url = parse(invocation.broker_url)
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    at = url
    while True:
        try:
            return _ask(at, request)
        except NotLeader:
            if time.monotonic() > deadline:
                raise
        leader = str(_ask(url, {"op": "status"})["leader_address"])
        at = replace(url, addresses=(leader,)) if leader else url
        if not leader:
            time.sleep(LOOK_AGAIN_S)


def _ask(url: BrokerUrl, request: dict[str, Any]) -> dict[str, Any]:
    from disheap import sync

    with sync.connect(url, observer=True, timeout_s=CONNECT_TIMEOUT_S) as client:
        return client.driver.admin(request)
