"""A simulated network, and the transport `sim` over it.

A connection is an ordered stream, as TCP gives it: what is written arrives in order, later, cut anywhere, or the
connection breaks. Between connections there is no order. While a direction is cut, what was written waits (TCP would
send it again), and arrives long after it was true, or the connection breaks. A machine that loses power says nothing:
its peers hold connections that nobody answers.

Raft tolerates more than TCP does to it, so a link may be lossy. Whole messages between nodes (and no other frames) are
then dropped, doubled and reordered within their connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol

import msgspec

from disheap.errors import AddressInUse, ConnectionLost
from disheap.interfaces import Receiver
from disheap.protocol.frames import Kind
from disheap.testing.simulator.world.loop import Process, SimLoop
from disheap.testing.simulator.world.rng import Rng

STALL_S = 12.0
"""Data that could not be delivered for so long break the connection (a TCP user timeout)."""
SILENCE_S = 20.0
"""After so long somebody notices that a machine without power does not answer."""
WRITE_BUFFER_BYTES = 4 << 20
USUAL_DELAY_S = 0.002
"""The most that a link takes while nothing is wrong with it."""


class Link(msgspec.Struct):
    """One direction between two hosts. Delays in seconds."""

    least: float = 0.0002
    most: float = USUAL_DELAY_S
    cut: bool = False
    drop: float = 0.0  # chances for a message between nodes
    double: float = 0.0
    reorder: float = 0.0

    @property
    def is_poor(self) -> bool:
        """Slow, or losing what is sent."""
        return self.most > USUAL_DELAY_S or bool(self.drop or self.double or self.reorder)


class Tap(Protocol):
    """Sees one client connection from the client's side."""

    def sent(self, data: bytes) -> None:
        """The client has written these bytes."""

    def received(self, data: bytes) -> None:
        """The client gets these bytes."""


class Network:
    """All links and connections between hosts."""

    def __init__(self, loop: SimLoop, rng: Rng) -> None:
        self.loop = loop
        self.rng = rng
        self.listeners: dict[str, SimListener] = {}
        self.powered: dict[str, bool] = {}
        self.frames = self.dropped = self.doubled = self.reordered = 0
        self._links: dict[tuple[str, str], Link] = {}
        self._ends: dict[SimConnection, None] = {}

    def link(self, source: str, target: str) -> Link:
        """The link from `source` to `target`."""
        link = self._links.get((source, target))
        if link is None:
            link = self._links[source, target] = Link()
        return link

    def links(self) -> Iterator[tuple[str, str, Link]]:
        """(source, target, link) of all that were ever used. Who asks may use others meanwhile."""
        for (source, target), link in tuple(self._links.items()):
            yield source, target, link

    # --- faults ---

    def cut(self, source: str, target: str, reset: float = 0.3) -> None:
        """One way. Some connections break at once, the others stall."""
        self.link(source, target).cut = True
        for end in [end for end in self._ends if (end.host, end.other.host) == (source, target)]:
            if self.rng.chance(reset):
                self.break_connection(end)

    def heal(self, source: str, target: str) -> None:
        """Heals a cut link. The data that waited is sent."""
        link = self.link(source, target)
        if link.cut:
            link.cut = False
            for end in [end for end in self._ends if (end.host, end.other.host) == (source, target)]:
                end.send_held()

    def heal_all(self) -> None:
        """Heals all links and ends all their faults."""
        for (source, target), link in list(self._links.items()):
            self.heal(source, target)
            link.drop = link.double = link.reorder = 0.0
            link.least, link.most = Link().least, Link().most

    def connections(self) -> list[SimConnection]:
        """All ends of open connections."""
        return list(self._ends)

    def break_connection(self, end: SimConnection, late_s: float = 0.0) -> None:
        """A reset in the middle: both ends hear of it, the other one perhaps later, and what was under way is lost."""
        error = ConnectionLost("the connection was reset by the network")
        for one in (end, end.other):
            one.drop_held()
            one.generation += 1
        end.is_deaf = end.other.is_deaf = late_s > 0
        end.process.soon(end.lose, error)
        end.other.process.later(late_s, end.other.lose, error)

    def killed(self, process: Process, host: str, silently: bool) -> None:
        """A process is gone. Its machine says so (a reset), or, without power, nothing."""
        for address in [address for address, listener in self.listeners.items() if listener.process is process]:
            del self.listeners[address]
        self.powered[host] = not silently
        for end in [end for end in self._ends if end.process is process]:
            self._ends.pop(end, None)
            end.lost = True
            if not silently:
                end.other.process.later(self.delay(host, end.other.host), end.other.lose, _gone())
            else:
                end.other.drop_held()
                end.other.process.later(self.rng.seconds(SILENCE_S / 2, SILENCE_S), end.other.lose, _gone())

    def started(self, host: str) -> None:
        """The machine is back, and resets what it does not know."""
        self.powered[host] = True
        for end in [end for end in self._ends if end.other.host == host and end.other.lost]:
            end.process.later(self.rng.seconds(0.001, 2.0), end.lose, _gone())

    # --- what connections ask ---

    def delay(self, source: str, target: str) -> float:
        """A random delay of this link, in seconds."""
        link = self.link(source, target)
        return self.rng.seconds(link.least, link.most)

    def opened(self, end: SimConnection) -> None:
        """Registers an end of a connection."""
        self._ends[end] = None

    def closed(self, end: SimConnection) -> None:
        """Forgets an end of a connection."""
        self._ends.pop(end, None)


def _gone() -> ConnectionLost:
    return ConnectionLost("the other side is gone")


class SimListener:
    """A listener of the simulated network."""

    def __init__(self, network: Network, process: Process, host: str, address: str, accept: Callable[[], Receiver]):
        self.address = address
        self.process = process
        self.host = host
        self.accept = accept
        self._network = network

    async def close(self) -> None:
        """Frees the address. Connections go on."""
        if self._network.listeners.get(self.address) is self:
            del self._network.listeners[self.address]


class SimSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """No settings."""


class SimTransport:
    """One process's way to the network."""

    name: ClassVar[str] = "sim"
    api: ClassVar[int] = 1
    secure: ClassVar[bool] = True
    Settings: ClassVar[type[msgspec.Struct]] = SimSettings

    def __init__(self, network: Network, process: Process, host: str, tap: Callable[[str], Tap] | None = None) -> None:
        self._network, self._process, self._host, self._tap = network, process, host, tap

    async def listen(self, address: str, accept: Callable[[], Receiver]) -> SimListener:
        """Listens on `address`. Raises `AddressInUse` if somebody does already."""
        if address in self._network.listeners:
            raise AddressInUse(f"{address} is in use in this simulation")
        listener = SimListener(self._network, self._process, self._host, address, accept)
        self._network.listeners[address] = listener
        return listener

    async def connect(self, address: str, receiver: Receiver, timeout_s: float) -> SimConnection:
        """Connects as TCP does: with a delay, and a timeout if the way is cut or the host is silent."""
        network, here = self._network, self._host
        there = address.partition(":")[0]
        way = network.delay(here, there) + network.delay(there, here)
        if self._is_silent(there) or way > timeout_s:
            await asyncio.sleep(timeout_s)
            raise ConnectionLost(f"{address} did not answer within {timeout_s} s")
        await asyncio.sleep(way)
        listener = network.listeners.get(address)
        if listener is None or self._is_silent(there):
            raise ConnectionLost(f"nobody listens on {address}")
        near = SimConnection(network, self._process, here, address)
        far = SimConnection(network, listener.process, there, f"{here} in the simulation")
        near.other, far.other = far, near
        near.tap = self._tap(address) if self._tap else None
        network.opened(far)
        listener.process.soon(far.accepted, listener)
        near.open(receiver)
        return near

    def _is_silent(self, there: str) -> bool:
        network, here = self._network, self._host
        return network.link(here, there).cut or network.link(there, here).cut or not network.powered.get(there, True)


class SimConnection:
    """One end. Implements `interfaces.Connection`."""

    other: SimConnection

    def __init__(self, network: Network, process: Process, host: str, remote: str) -> None:
        self.remote = remote
        self.certificate_names: tuple[str, ...] | None = None
        self.process = process
        self.host = host
        self.tap: Tap | None = None
        self.lost = False
        self.is_deaf = False  # broken, and one end does not know it yet
        self.generation = 0  # what was under way before a reset does not arrive
        self._network = network
        self._receiver: Receiver | None = None
        self._reading = True
        self._inbox: deque[bytes] = deque()
        self._ended = False  # the other end has written its last
        self._closing = False
        self._held: list[bytes | None] = []  # written while the way was cut; None is the end of the stream
        self._arrives_at = 0.0  # the last that was written does
        self._under_way = 0
        self._writer_paused = False

    def open(self, receiver: Receiver) -> None:
        """Gives the connection its receiver and calls `connection_made`."""
        self._receiver = receiver
        self._network.opened(self)
        receiver.connection_made(self)
        self._deliver()

    def accepted(self, listener: SimListener) -> None:
        """The listening side takes the connection, or ends it if nobody listens any more."""
        if self._network.listeners.get(listener.address) is not listener:
            self.abort()
        elif not self.lost:
            self.open(listener.accept())

    # --- Connection ---

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends a copy of `data`. Tells the receiver to pause if too much is under way."""
        if self._closing or self.lost or not data:
            return
        if self.tap is not None:
            self.tap.sent(bytes(data))
        self._under_way += len(data)
        self._send(bytes(data))
        if not self._writer_paused and self._under_way > WRITE_BUFFER_BYTES and self._receiver is not None:
            self._writer_paused = True
            self._receiver.writing_paused()

    def buffered(self) -> int:
        """How many bytes the other end has not taken yet."""
        return self._under_way

    def pause_reading(self) -> None:
        """Holds back arriving data."""
        self._reading = False

    def resume_reading(self) -> None:
        """Delivers what was held back, and what comes."""
        if not self._reading:
            self._reading = True
            self.process.soon(self._deliver)

    def close(self) -> None:
        """Ends the connection behind the data that was written."""
        if not (self._closing or self.lost):
            self._closing = True
            self._send(None)
            self.process.soon(self.lose, None)

    def abort(self) -> None:
        """Ends the connection at once."""
        if self.lost:
            return
        self._closing = True
        self.drop_held()
        self._send(None)
        self.process.soon(self.lose, None)

    # --- the way of the bytes ---

    def _send(self, data: bytes | None) -> None:
        link = self._network.link(self.host, self.other.host)
        if link.cut or self._held:
            if not self._held:
                self._network.loop.at(self._network.loop.now + STALL_S, self._stalled, (self.generation,))
            self._held.append(data)
            return
        if data is not None and (link.drop or link.double or link.reorder) and _is_losable(data):
            self._send_lossy(link, data)
            return
        self._schedule(data, self._network.delay(self.host, self.other.host))

    def _send_lossy(self, link: Link, data: bytes) -> None:
        network, rng = self._network, self._network.rng
        network.frames += 1
        if rng.chance(link.drop):
            network.dropped += 1
            self._under_way -= len(data)
            return
        if rng.chance(link.double):
            network.doubled += 1
            self._under_way += len(data)
            self._schedule(data, network.delay(self.host, self.other.host) * rng.between(1, 20), in_order=False)
        late = rng.chance(link.reorder)
        network.reordered += late
        factor = rng.between(2, 30) if late else 1
        self._schedule(data, network.delay(self.host, self.other.host) * factor, in_order=not late)

    def _schedule(self, data: bytes | None, delay_s: float, in_order: bool = True) -> None:
        loop, other = self._network.loop, self.other
        arrives_at = loop.now + delay_s
        if in_order:
            arrives_at = self._arrives_at = max(arrives_at, self._arrives_at)
        other.process.later(arrives_at - loop.now, other.arrive, data, self.generation)

    def _stalled(self, generation: int) -> None:
        if self._held and generation == self.generation:
            self._network.break_connection(self)

    def send_held(self) -> None:
        """Sends what waited while the link was cut."""
        held, self._held = self._held, []
        for data in held:
            self._send(data)
        self._forget_if_lost()

    def drop_held(self) -> None:
        """Drops what waited while the link was cut."""
        self._held = []
        self._forget_if_lost()

    def _forget_if_lost(self) -> None:
        if self.lost:
            self._network.closed(self)

    def arrive(self, data: bytes | None, generation: int) -> None:
        """At the receiving end."""
        if generation != self.other.generation or self.is_deaf:
            return
        if self.lost:
            if data is not None and self.process.alive:  # nobody reads here any more: a reset says so
                self.other.process.later(self._network.delay(self.host, self.other.host), self.other.lose, _gone())
            return
        if data is None:
            self._ended = True
        else:
            self._inbox.append(data)
        self._deliver()

    def _deliver(self) -> None:
        if self.lost or self._receiver is None:
            return
        while self._inbox and self._reading and not self.lost:
            data = self._inbox.popleft()
            self.other.taken(len(data))
            self._hand_over(self._receiver, data)
        if self._ended and not self._inbox and not self.lost:
            self._closing = True
            self.lose(None)

    def _hand_over(self, receiver: Receiver, data: bytes) -> None:
        if self.tap is not None:
            self.tap.received(data)
        rng = self._network.rng
        if len(data) > 1 and rng.chance(0.02):  # bytes may be cut anywhere
            place = rng.between(1, len(data) - 1)
            receiver.data_received(data[:place])
            if self.lost or not self._reading:
                self._inbox.appendleft(data[place:])
                self.other._under_way += len(data) - place
                return
            data = data[place:]
        receiver.data_received(data)

    def taken(self, size: int) -> None:
        """The other end has taken `size` bytes. Tells the receiver when it may write again."""
        self._under_way -= size
        if self._writer_paused and self._under_way <= WRITE_BUFFER_BYTES // 4:
            self._writer_paused = False
            if self._receiver is not None and not self.lost:
                self.process.soon(self._receiver.writing_resumed)

    def lose(self, error: Exception | None) -> None:
        """Ends this end and calls `connection_lost`."""
        if self.lost:
            return
        self.lost = True
        self._inbox.clear()
        if not self._held:  # else the machine goes on trying, for a while
            self._network.closed(self)
        if not self._closing and not self.other.lost and not self.is_deaf:
            self.other.process.later(self._network.delay(self.host, self.other.host), self.other.lose, _gone())
        if self._receiver is not None:
            self._receiver.connection_lost(error)


LOSABLE = (Kind.PEER_MESSAGE, Kind.FORWARD, Kind.FORWARD_ANSWER)
"""Frames between nodes that may be lost, doubled or late: whoever sends one expects that."""


def _is_losable(data: bytes) -> bool:
    """Whether it is one such frame, and nothing else."""
    return data[4] in LOSABLE and int.from_bytes(data[:4], "little") + 4 == len(data)
