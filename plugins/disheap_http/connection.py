"""One HTTP connection: requests in, answers out, one at a time.

Owns the deadline of each request and the bounds of what a client can make the node hold. h11 owns the grammar. A
request has no body, and its head is bounded. The timer covers reading, answering and writing. So a client that sends or
reads slowly is cut off, whatever it waits for.

A node runs without the garbage collector. So an error must not keep its own traceback: that would be a cycle.
"""

from __future__ import annotations

import asyncio
import ipaddress
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol, cast

import h11

from disheap.logs import LineLimiter, get_logger
from disheap_http.messages import Answer, Request, refusal
from disheap_http.settings import HEAD_BYTES_MAX, LINGER_S, WRITE_BYTES

log = get_logger(__name__)

METHODS = (b"GET", b"HEAD")
REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class Owner(Protocol):
    """What a connection asks of the listeners' owner."""

    loop: asyncio.AbstractEventLoop
    lines: LineLimiter
    request_timeout_s: float

    def enter(self, connection: HttpConnection) -> bool:
        """A new connection. Returns whether it is served."""

    def became_busy(self, connection: HttpConnection) -> None:
        """The connection has a request under way."""

    def became_idle(self, connection: HttpConnection) -> None:
        """The connection waits for a request."""

    def ended(self, connection: HttpConnection) -> None:
        """The connection is gone."""

    def answered(self, answer: Answer) -> None:
        """An answer was made."""


class Site(Protocol):
    """What is served on one address."""

    only_local: bool  # reached from this machine alone

    async def answer(self, request: Request) -> Answer:
        """Answers a request."""


class HttpConnection(asyncio.Protocol):
    """The other end of one TCP or TLS connection."""

    def __init__(self, owner: Owner, site: Site) -> None:
        self._owner = owner
        self._site = site
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._transport: asyncio.Transport | None = None
        self._request: h11.Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._is_closing = False

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client can be served. With TLS it has proved itself, and may have sent its request already."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._owner.enter(self):
            self.refuse(503, "too many connections; come again in a moment")
            return
        self._begin_waiting()
        self._advance()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        if self._is_closing:
            return
        self._receive(data)

    def eof_received(self) -> bool:
        """The client sends no more. It may still read an answer that is under way."""
        if not self._is_closing:
            self._receive(b"")
        return self._task is not None

    def pause_writing(self) -> None:
        """The client reads slowly."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """The client has read."""
        self._can_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone, and with it the request that is under way."""
        self._is_closing = True
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
        self._transport = None
        self._owner.ended(self)

    # --- what the owner does -----------------------------------------------------------------------------------------

    def refuse(self, status: int, reason: str) -> None:
        """Answers what cannot be served, and closes."""
        self._is_closing = True
        if self._transport is None:
            return
        if self._parser.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = refusal(status, reason)
            self._owner.answered(answer)
            self._send(self._head(answer, "close"))
            self._send(h11.Data(data=answer.body))
        self._close()

    def abort(self) -> asyncio.Task[None] | None:
        """Ends the connection at once. Returns the task that has to end, too."""
        self._is_closing = True
        if self._transport is not None:
            self._transport.abort()
        if self._task is not None:
            self._task.cancel()
        return self._task

    # --- reading -----------------------------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        try:
            self._parser.receive_data(data)
        except RuntimeError:  # after an end that was received already
            return
        if self._transport is not None and self._task is None:
            self._advance()

    def _advance(self) -> None:
        """Takes in what the parser has, until a request is whole."""
        while self._task is None and not self._is_closing:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError as error:
                reason, status = str(error), error.error_status_hint
                _forget_frames(error)
                self.refuse(status, f"this is no HTTP request: {reason}")
                return
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.ConnectionClosed):
                self._close()
            elif isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data):
                self.refuse(413, "a request takes no body here")
            elif isinstance(event, h11.EndOfMessage):
                self._start_answer()

    def _begin(self, request: h11.Request) -> None:
        self._request = request
        headers = dict(request.headers)
        if len(request.target) + sum(len(name) + len(value) for name, value in request.headers) > HEAD_BYTES_MAX:
            self.refuse(431, f"a request's first line and headers have at most {HEAD_BYTES_MAX} bytes here")
            return  # h11 bounds only what has not come whole
        if b"transfer-encoding" in headers or headers.get(b"content-length", b"0").strip(b"0"):
            self.refuse(413, "a request takes no body here")

    def _start_answer(self) -> None:
        assert self._request is not None and self._transport is not None
        request, self._request = self._request, None
        self._transport.pause_reading()
        self._owner.became_busy(self)
        self._start_timer(self._give_up)
        self._task = self._owner.loop.create_task(self._serve(request))

    # --- answering ---------------------------------------------------------------------------------------------------

    async def _serve(self, request: h11.Request) -> None:
        answer = await self._make_answer(request)
        self._owner.answered(answer)
        await self._write(answer, with_body=request.method != b"HEAD")
        self._task = None
        if self._parser.our_state is h11.DONE and self._parser.their_state is h11.DONE and not self._is_closing:
            self._parser.start_next_cycle()
            self._begin_waiting()
            if self._transport is not None:
                self._transport.resume_reading()
            self._advance()
        else:
            self._close()

    async def _make_answer(self, request: h11.Request) -> Answer:
        headers = dict(request.headers)
        if request.method not in METHODS:
            allowed = ", ".join(method.decode() for method in METHODS)
            return refusal(405, f"only {allowed} are served here")._replace(allow=allowed)
        if self._site.only_local and not _is_local_name(headers.get(b"host", b"localhost")):
            return refusal(421, "this address serves its own machine alone: ask for localhost or 127.0.0.1")
        path, _, query = request.target.decode("ascii", "replace").partition("?")
        try:
            return await self._site.answer(Request(path, query, headers.get(b"accept", b"").decode("latin-1")))
        except Exception as error:
            self._owner.lines.write(log.exception, "a page failed", path=path[:100])
            _forget_frames(error)
            return refusal(500, "the page failed; the node's log says why")

    async def _write(self, answer: Answer, with_body: bool) -> None:
        keeps = self._parser.their_state is h11.DONE and not self._is_closing
        self._send(self._head(answer, "" if keeps else "close"))
        if with_body:
            for start in range(0, len(answer.body), WRITE_BYTES):
                await self._can_write.wait()
                self._send(h11.Data(data=answer.body[start : start + WRITE_BYTES]))
        self._send(h11.EndOfMessage())
        await self._can_write.wait()

    def _head(self, answer: Answer, connection: str) -> h11.Response:
        headers = [
            ("content-type", answer.content_type),
            ("content-length", str(len(answer.body))),
            ("date", formatdate(usegmt=True)),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
        ]
        headers += [("allow", answer.allow)] if answer.allow else []
        headers += [("connection", connection)] if connection else []
        return h11.Response(status_code=answer.status, headers=headers, reason=REASONS[answer.status])

    def _send(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        data = self._parser.send(event)
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # --- time --------------------------------------------------------------------------------------------------------

    def _begin_waiting(self) -> None:
        self._owner.became_idle(self)
        self._start_timer(self._stop_waiting)

    def _start_timer(self, call: Any) -> None:
        self._stop_timer()
        self._timer = self._owner.loop.call_later(self._owner.request_timeout_s, call)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_waiting(self) -> None:
        """No request has come in time, or not all of one."""
        if self._parser.trailing_data[0] or self._request is not None:
            self.refuse(408, f"no whole request came within {self._owner.request_timeout_s:g} s")
        else:
            self._close()

    def _give_up(self) -> None:
        """The answer was not made or not read in time."""
        self.abort()

    def _close(self) -> None:
        """Closes when the last bytes are sent, or a little later."""
        self._is_closing = True
        self._stop_timer()
        if self._transport is not None:
            self._transport.close()
            if self._transport is not None:
                self._timer = self._owner.loop.call_later(LINGER_S, self._transport.abort)


def _is_local_name(host: bytes) -> bool:
    """Whether a Host header names this machine from within. A page of another site can make a browser send its own name
    to a loopback address (DNS rebinding)."""
    name = host.decode("latin-1").strip().lower()
    name = name.rpartition(":")[0] if name.rpartition(":")[2].isdigit() else name
    if name in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _forget_frames(error: BaseException | None) -> None:
    while error is not None:
        error.__traceback__ = None
        error = error.__context__
