"""Clients for the commands. One place that turns what was typed into a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disheap.cli.options import Invocation

if TYPE_CHECKING:
    from disheap.sync import Client

CONNECT_TIMEOUT_S = 10.0
"""To a session: an election takes two to three seconds, and somebody is waiting at a terminal."""


def connect(invocation: Invocation) -> Client:
    """A client with a session at the leader. `timeout_s` in the URL has its say over requests and over connecting."""
    from disheap import sync
    from disheap.client.url import BrokerUrl, parse

    url = parse(invocation.broker_url)
    given = url.timeout_s if url.timeout_s != BrokerUrl().timeout_s else CONNECT_TIMEOUT_S
    return sync.connect(url, timeout_s=given, label="disheap command")
