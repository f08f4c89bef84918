"""Accepts TLS connections, and bounds those in their handshake. A handshake needs a place, and the places are bounded
(`handshakes`). A client that wants to connect sends at once, and is done after one round trip. So a connection *stalls*
when it has said nothing for `SILENCE_S`, or is still shaking hands `SLOW_S` after its first byte. When every place is
taken, the oldest stalled connection of the address that holds the most places gives way. Of one address, no more than
`handshakes_per_address` may stall.

Each listener has places of its own. So a flood on the port for clients does not keep a peer out.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from disheap.addresses import owner_of
from disheap_tcp import trust
from disheap_tcp.address import Address
from disheap_tcp.link import Link, forget_frames
from disheap_tcp.trust import TlsSettings

ACCEPT_RETRY_S = 1.0
"""The pause when descriptors or memory are missing. Meanwhile some may be freed, and the backlog holds new
connections."""
SILENCE_S = 0.2
"""A client sends its HELLO as soon as it is connected. A busy client, or one of a thousand after a failover, may take a
moment."""
SLOW_S = 1.0
"""A handshake takes one round trip after the first byte. This is three of the slowest ones between continents."""
LOOK_AGAIN_S = 0.05
"""While every place is taken, how often to look whether somebody has stalled."""


class _Guest:
    """A connection that is still in its handshake."""

    def __init__(self, accepted: socket.socket, peer: str, now: float) -> None:
        self.socket = accepted
        self.peer = peer
        self.owner = owner_of(peer)
        self.since = now  # connected, or its first byte
        self.deadline: asyncio.TimerHandle | None = None  # while it is silent
        self.link: Link | None = None  # while it shakes hands
        self.task: asyncio.Task[None] | None = None

    def has_stalled(self, now: float) -> bool:
        if self.link is None:
            return now - self.since >= SILENCE_S and _says_nothing(self.socket)
        return now - self.since >= SLOW_S and not self.link.made


class TlsListener:
    """Owns the accepting tasks and the guests; ends them all in `close`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: str,
        listening: list[socket.socket],
        context: Callable[[], ssl.SSLContext],
        settings: TlsSettings,
        link: Callable[[], Link],
    ) -> None:
        """`context` gives the certificates that count now."""
        from disheap.logs import LineLimiter, get_logger  # a client, which never listens, does not load them

        self.address = address
        self._log = get_logger(__name__)
        self._lines = LineLimiter(loop)
        self._loop = loop
        self._sockets = listening
        self._context = context
        self._settings = settings
        self._link = link
        self._moved = asyncio.Event()  # a place is free
        self._guests: dict[_Guest, None] = {}  # the oldest first
        self._owners: Counter[str] = Counter()
        self._accepting = [loop.create_task(self._accept(sock)) for sock in listening]

    async def close(self) -> None:
        """A handshake whose link was made a moment ago is over, though its task has not heard: it is not cancelled."""
        tasks = [guest.task for guest in self._guests if guest.task is not None]
        for guest in list(self._guests):
            if guest.link is None:
                self._dismiss(guest)
            elif guest.task is not None and not guest.link.made:
                guest.task.cancel()
        for sock in self._sockets:
            if sock.fileno() >= 0:  # it may be closed twice
                self._loop.remove_reader(sock)  # else asyncio accepts for a cancelled task, and logs an error
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*tasks, *self._accepting, return_exceptions=True)
        for sock in self._sockets:
            sock.close()

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            await self._wait_for_room()
            try:
                accepted, peer = await self._loop.sock_accept(listening)
            except OSError as error:
                self._lines.write(
                    self._log.error,
                    "cannot accept a connection; trying again",
                    address=self.address, reason=str(error),
                )  # fmt: skip
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            guest = _Guest(accepted, str(Address(peer[0], peer[1])), self._loop.time())
            self._make_room(guest.owner)
            self._receive(guest)

    # --- places ------------------------------------------------------------------------------------------------------

    async def _wait_for_room(self) -> None:
        """Waits until a place is free, or somebody would give his up."""
        while self._is_full() and self._stalled() is None:
            self._moved.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await self._moved.wait()

    def _is_full(self) -> bool:
        return len(self._guests) >= self._settings.handshakes

    def _make_room(self, owner: str) -> None:
        """For one more of that owner."""
        most = self._settings.handshakes_per_address
        if owner and self._owners[owner] >= most and (oldest := self._stalled_of(owner)) is not None:
            self._turn_away(oldest, f"its address has {most} unfinished handshakes, and this is the oldest")
        if self._is_full() and (oldest := self._stalled()) is not None:
            self._turn_away(oldest, "too many handshakes are unfinished, and this is the oldest")

    def _stalled(self) -> _Guest | None:
        """The oldest of the owner with the most places; of anybody, where he has none that has stalled."""
        (owner, _), *_ = self._owners.most_common(1)
        return self._stalled_of(owner) or self._stalled_of(None)

    def _stalled_of(self, owner: str | None) -> _Guest | None:
        now = self._loop.time()
        guests = (guest for guest in self._guests if owner is None or guest.owner == owner)
        return next((guest for guest in guests if guest.has_stalled(now)), None)

    # --- a guest's way -----------------------------------------------------------------------------------------------

    def _receive(self, guest: _Guest) -> None:
        seconds = self._settings.handshake_timeout_s
        self._guests[guest] = None
        self._owners[guest.owner] += 1
        guest.deadline = self._loop.call_later(seconds, self._turn_away, guest, f"it says nothing for {seconds:g} s")
        self._loop.add_reader(guest.socket, self._has_spoken, guest)

    def _has_spoken(self, guest: _Guest) -> None:
        self._stop_listening_to(guest)
        guest.since = self._loop.time()
        link = guest.link = self._link()
        guest.task = self._loop.create_task(self._shake_hands(guest, link))
        guest.task.add_done_callback(lambda _: self._forget(guest))

    async def _shake_hands(self, guest: _Guest, link: Link) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: link,
                guest.socket,
                ssl=self._context(),
                ssl_handshake_timeout=self._settings.handshake_timeout_s,
            )
        except OSError as error:
            guest.socket.close()
            forget_frames(error)
            self._say(guest, trust.explain(error))
        except asyncio.CancelledError as error:
            guest.socket.close()
            forget_frames(error)
            raise

    def _turn_away(self, guest: _Guest, reason: str) -> None:
        self._say(guest, reason)
        self._dismiss(guest)

    def _dismiss(self, guest: _Guest) -> None:
        self._forget(guest)
        if guest.task is not None:
            guest.task.cancel()
        else:
            self._stop_listening_to(guest)
            guest.socket.close()

    def _stop_listening_to(self, guest: _Guest) -> None:
        if guest.deadline is not None:
            guest.deadline.cancel()
            guest.deadline = None
        self._loop.remove_reader(guest.socket)

    def _forget(self, guest: _Guest) -> None:
        """Its place is free. May be called twice."""
        if guest not in self._guests:
            return
        del self._guests[guest]
        self._owners[guest.owner] -= 1
        if not self._owners[guest.owner]:
            del self._owners[guest.owner]
        self._moved.set()

    def _say(self, guest: _Guest, reason: str) -> None:
        self._lines.write(
            self._log.warning, "a TLS handshake is refused", remote=guest.peer, address=self.address, reason=reason
        )


def _says_nothing(accepted: socket.socket) -> bool:
    """Whether the other end has neither sent anything nor hung up."""
    try:
        accepted.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
