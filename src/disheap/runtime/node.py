"""`disheap.Node`: a node as a library.

Owns the few names that a program may rely on, and what they promise. `member.Member` does the work. What is not here is
private and may change with any release.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from disheap.config.node_config import NodeConfig
from disheap.errors import NotSent, RequestTimeout
from disheap.runtime.member import Member


class Node:
    """One node of a cluster, in this process, on the running event loop.

    `config` has the node's name, its cluster's members, its addresses and limits (`disheap.config.load` reads one as
    `disheap serve` does). A node is started and stopped once. All methods are for the loop that it was started on, and
    any number of tasks may call them at the same time. Raises `ConfigError` for settings that contradict each other.

    >>> import asyncio, disheap
    >>> async def main():
    ...     config = disheap.NodeConfig(name="n1", alone=True, storage="memory", client_listen="127.0.0.1:0")
    ...     async with disheap.Node(config) as node:
    ...         leader = await node.wait_for_leader(timeout_s=10)
    ...         async with disheap.connect(f"disheap://{node.client_address}") as client:
    ...             await client.create_topic("jobs")
    ...         status = await node.status()
    ...         return leader, status["role"], status["machine_stats"]["topics"]
    >>> asyncio.run(main())
    ('n1', 'leader', 1)
    """

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._made = Member(config) if config.begins_somehow() else None  # `join` says where it belongs
        self._was_started = self._is_running = False

    async def __aenter__(self) -> Node:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Read what the data directory holds, listen, and take part in the cluster.

        Returns when clients can connect. A leader may not be known yet: see `wait_for_leader`. Reading takes as long as
        there is data since the last snapshot, and ends with the error if some of it cannot be used.

        Raises `ConfigError` for a setting, an address or a plugin that cannot be used, and `StorageError` for a data
        directory that cannot be used. Nothing is left running then. Raises `RuntimeError` if it was called before.
        """
        await self._start(self._made or Member(self._config))

    async def join(self, addresses: Sequence[str], *, timeout_s: float = 60.0, as_learner: bool = False) -> int:
        """Start this node as a new member of a running cluster. Call it instead of `start`.

        `addresses` are peer addresses (`HOST:PORT`) of members; one that answers is enough. The settings have no
        `members` then, and neither `alone` nor `bootstrap`. Returns the id of the new member when it is a voter that
        has caught up. With `as_learner` it gets no vote, and is returned when it has joined. A data directory that is
        not empty says which member this is, and nobody is asked.

        Raises `RequestTimeout` after `timeout_s` seconds; the log says what the cluster has answered. Nothing is left
        running then. Raises what `start` raises.
        """
        config = msgspec.structs.replace(self._config, join_addresses=tuple(addresses), join_as_learner=as_learner)
        member = Member(config)
        try:
            async with asyncio.timeout(timeout_s):
                await self._start(member)
                return await member.membership.wait_joined(as_learner)
        except TimeoutError:
            self._is_running = False
            await member.stop()
            raise RequestTimeout(
                f"this node has not become a member within {timeout_s:g} s; its log says why"
            ) from None

    async def leave(self, timeout_s: float = 30.0) -> None:
        """Have the cluster remove this node for good. What it leads is handed over first.

        Returns when the removal is committed. The node takes no part any more then, and its id is never used again:
        `stop` it. To come back it joins anew, with an empty data directory.

        Raises `LastVoter` if no other member has a vote, and `QuorumAtRisk` if too few of the others are in touch.
        Raises `RequestTimeout` after `timeout_s` seconds: it may be removed later. Raises `NotSent` if this node is not
        running.
        """
        await self._running().membership.leave(timeout_s)

    async def _start(self, member: Member) -> None:
        if self._was_started:
            raise RuntimeError("this node was started before; make another disheap.Node to start again")
        self._was_started, self._made = True, member
        await member.start()
        self._is_running = True

    @property
    def _member(self) -> Member:
        if self._made is None:
            raise NotSent("nothing was done, because this node has not joined a cluster: call join()")
        return self._made

    async def stop(self, hand_over: bool = True) -> None:
        """Tell clients and peers that this node goes, write what is left to be written, and close everything.

        With `hand_over`, each group that this node leads is handed to another member first. That takes one election
        timeout at most. May be called twice, and before `start`.

        Raises the error that ended the node meanwhile, after all is closed. An error that `wait_failed` has returned
        before is not raised again.
        """
        self._is_running = False
        if self._made is not None:
            await self._made.stop(hand_over)

    async def apply(self, command: bytes, timeout_s: float = 10.0, *, group: int = 0) -> bytes:
        """Apply one command to the state machine of a group, through the replicated log.

        `command` and the reply are bytes in the machine's own format. For the machine `heap` these are
        `disheap.protocol.broker.encode` and `decode_reply`. The command is durable on a majority and applied on this
        node when its reply is returned. It is applied at most once. This node has to lead the group.

        The error says what became of the command:

        - Nothing was done: `NotLeader` has the leader's client address, if one is known. `NotSent` means that this node
          is not running. Every other `RequestError` is the machine's refusal, or that of a limit.
        - The outcome is unknown: `RequestTimeout` after `timeout_s` seconds, and `OutcomeUnknown` when leadership was
          lost meanwhile. The command may have been applied, or may be applied later. Look before you repeat it. The
          same holds if the task is cancelled.
        - `UnknownGroup`: this node has no such `group`. Groups are numbered from 0.

        >>> import asyncio, disheap
        >>> from disheap.protocol import broker
        >>> async def main():
        ...     config = disheap.NodeConfig(name="n1", alone=True, storage="memory", client_listen="127.0.0.1:0")
        ...     async with disheap.Node(config) as node:
        ...         await node.wait_for_leader()
        ...         await node.apply(broker.encode(broker.CreateTopic("jobs")), timeout_s=5)
        ...         enqueue = broker.Enqueue("jobs", broker.NewMessage(b"first"))
        ...         reply = await node.apply(broker.encode(enqueue), timeout_s=5)
        ...         return broker.decode_reply.decode(reply).id
        >>> asyncio.run(main())
        1
        """
        return await self._running().apply(command, timeout_s, group=group)

    async def query(self, request: bytes, timeout_s: float = 10.0, *, group: int = 0) -> bytes:
        """Ask the state machine of a group. The answer knows all that was applied before the call (linearizable).

        `request` and the answer are bytes in the machine's own format. Nothing is written to the log. This node has to
        lead the group.

        Raises `NotLeader`, `NotSent` if this node is not running, `RequestTimeout` when no majority has confirmed
        within `timeout_s` seconds that this node leads, `UnknownGroup`, and what the machine refuses. A query changes
        nothing, so it may be repeated after any of them.

        >>> import asyncio, disheap
        >>> from disheap.protocol import broker
        >>> async def main():
        ...     config = disheap.NodeConfig(name="n1", alone=True, storage="memory", client_listen="127.0.0.1:0")
        ...     async with disheap.Node(config) as node:
        ...         await node.wait_for_leader()
        ...         await node.apply(broker.encode(broker.CreateTopic("jobs")))
        ...         answer = await node.query(broker.encode(broker.DescribeTopic("jobs")))
        ...         return broker.decode_reply.decode(answer).ready
        >>> asyncio.run(main())
        0
        """
        return await self._running().query(request, timeout_s, group=group)

    async def wait_for_leader(self, timeout_s: float = 10.0, *, group: int = 0) -> str:
        """Wait until a leader of the group is known. Returns its name, which is this node's own if it leads.

        Raises `RequestTimeout` after `timeout_s` seconds without one: is a majority of the members running? Raises
        `UnknownGroup`, and `NotSent` if this node is not running.
        """
        return await self._running().wait_for_leader(timeout_s, group=group)

    async def wait_failed(self) -> BaseException:
        """Wait for an error that ends the node, and return it. A disk that fails is the most frequent one.

        The node serves nobody from then on. It does not start again by itself: `stop` it and end the process, so that a
        supervisor starts it anew. Waits for ever while nothing fails.
        """
        return await self._member.wait_failed()

    async def status(self, *, group: int = 0) -> dict[str, Any]:
        """What an operator wants to know: the map that `disheap status --json` prints (docs/reference/cli.md).

        The keys of one `group` are at the top: `role`, `term`, `leader`, `commit_index`, `applied_index`, `members`,
        `machine_stats` and more. `groups` has a row for each group of this node. `counters` counts since the start,
        over all groups. Sizes are in bytes, and times in the unit that ends their key. Any node answers, the leader or
        not.

        Raises `UnknownGroup`, `NotSent` if this node is not running, and `StorageError`.
        """
        return await self._running().status(group=group)

    def reload(self) -> None:
        """Read the files of the transports again, such as renewed certificates. Connections made from now on use them.

        Raises `ConfigError` for a file that cannot be used: that transport goes on with what it had. Raises `NotSent`
        if this node is not running.
        """
        self._running().reload()

    @property
    def client_address(self) -> str:
        """Where clients connect, as `HOST:PORT`, with the port that was chosen where 0 was asked for. "" before the
        node has started."""
        return self._made.client_address if self._made is not None else ""

    def _running(self) -> Member:
        if not self._is_running:
            state = "was stopped" if self._was_started else "has not been started: use `async with`, or call start()"
            raise NotSent(f"nothing was done, because this node {state}")
        return self._member
