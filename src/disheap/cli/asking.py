"""Clients for the commands. One place that turns what was typed into a connection."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from disheap.cli.terminal.failures import one_line
from disheap.cli.terminal.options import Invocation
from disheap.errors import ConnectionLost, LimitReached, MalformedFrame, NotLeader, RequestError, WrongMachine

if TYPE_CHECKING:
    from disheap.client.core.url import BrokerUrl
    from disheap.sync import Client

HEAP = "heap"
"""The machine whose words `disheap.protocol.broker` has."""
LOOK_AGAIN_S = 0.2
"""Between two looks for a leader."""

CONNECT_TIMEOUT_S = 10.0
"""To a session: an election takes two to three seconds, and somebody is waiting at a terminal."""
NOTICE_S = 1.0
"""After so long it is said what is waited for. A healthy cluster answers sooner, frozen hosts included."""


def connect(invocation: Invocation) -> Client:
    """A client with a session at the leader. `timeout_s` in the URL has its say over requests and over connecting.
    Where no node lets it in soon, it says so on standard error (with `--json` the error is the only thing there)."""
    from disheap.client.core.url import BrokerUrl, parse

    url = parse(invocation.broker_url)
    given_s = url.timeout_s if url.timeout_s != BrokerUrl().timeout_s else CONNECT_TIMEOUT_S
    return _connected(replace(url, timeout_s=given_s, label="disheap command"), given_s, quiet=invocation.json)


def connect_broker(invocation: Invocation) -> Client:
    """Connects as `connect` does, for commands of the machine `heap`. Raises `WrongMachine` before anything is sent to
    another machine, which might take it for a command of its own."""
    client = connect(invocation)
    try:
        check_machine(client)
    except BaseException:
        client.close()
        raise
    return client


def check_machine(client: Client) -> None:
    """Raises `WrongMachine`. A machine of another name may know what `heap` knows: it is asked with a query, which
    changes nothing."""
    from disheap.protocol import broker

    welcome = client.driver.welcome
    assert welcome is not None, "the client is connected"
    if welcome.machine == HEAP:
        return
    with suppress(RequestError, MalformedFrame):
        if isinstance(client.driver.query(broker.GetStats()), broker.Stats):
            return
    command = click.get_current_context().command_path
    raise WrongMachine(
        f"the cluster runs the machine {welcome.machine!r}, and `{command}` speaks to the machine {HEAP!r}; nothing "
        "was done. Use that machine's own client (disheap.connect(URL, opaque=True)), or name a cluster that runs "
        f"{HEAP!r} (--url)"
    )


def _connected(url: BrokerUrl, given_s: float, quiet: bool) -> Client:
    from disheap import sync
    from disheap.client.io.blocking_driver import BlockingClient

    driver = BlockingClient(url, client="disheap-cli")
    try:
        try:
            driver.connect(min(NOTICE_S, given_s))
        except ConnectionLost as error:
            if given_s <= NOTICE_S or LimitReached.code in error.found.values():
                raise  # a limit does not go away while somebody waits at a terminal
            if not quiet:
                click.echo(f"disheap: {one_line(str(error))}; trying for {given_s:g} s", err=True)
            driver.connect(given_s - NOTICE_S)
    except BaseException:
        driver.close(end_session=False)
        raise
    return sync.Client(driver)


def ask_leader(invocation: Invocation, request: dict[str, Any], group: int | None = None) -> dict[str, Any]:
    """The leader's answer to an admin request; of `group`, else of the URL's. Opens no session, so it works when there
    are too many. Raises what the leader refuses, `ConnectionLost`, and `NotLeader` where none is found within
    `CONNECT_TIMEOUT_S`."""
    client, answer = asked_leader(_url(invocation, group), request)
    client.close()
    return answer


def ask_any(invocation: Invocation, request: dict[str, Any], group: int | None = None) -> dict[str, Any]:
    """The answer of whichever node of the URL answers first. Opens no session."""
    client, answer = _asked(_url(invocation, group), request)
    client.close()
    return answer


def ask_node(invocation: Invocation, address: str, request: dict[str, Any]) -> dict[str, Any]:
    """The answer of the node with this client address. Opens no session."""
    client, answer = _asked(replace(_url(invocation, 0), addresses=(address,)), request)
    client.close()
    return answer


def _url(invocation: Invocation, group: int | None) -> BrokerUrl:
    from disheap.client.core.url import parse

    url = parse(invocation.broker_url)
    return url if group is None else replace(url, group=group)


def asked_leader(url: BrokerUrl, request: dict[str, Any]) -> tuple[Client, dict[str, Any]]:
    """As `ask_leader`. Returns the client too, which is connected to the node that has answered."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    at = url
    while True:
        try:
            return _asked(at, request)
        except NotLeader:
            if time.monotonic() > deadline:
                raise
        client, answer = _asked(url, {"op": "status"})
        client.close()
        leader = str(answer["leader_address"])
        at = replace(url, addresses=(leader,)) if leader else url
        if not leader:
            time.sleep(LOOK_AGAIN_S)


def _asked(url: BrokerUrl, request: dict[str, Any]) -> tuple[Client, dict[str, Any]]:
    from disheap import sync

    client = sync.connect(url, observer=True, timeout_s=CONNECT_TIMEOUT_S)
    try:
        return client, client.driver.admin(request)
    except BaseException:
        client.close()
        raise
