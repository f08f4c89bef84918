"""The service: one HTTP server of one node, built, started and stopped with it.

Owns what is served where. `listeners` owns the connections, `pages` the answers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

import msgspec

from disheap.interfaces import Metric, ServiceContext
from disheap.logs import LineLimiter, get_logger
from disheap_http import trust
from disheap_http.exposition import Exposition
from disheap_http.listeners import Listeners, parse_address
from disheap_http.messages import Answer, Request
from disheap_http.pages import NodePages, Site, index_page
from disheap_http.rates import EVERY_S, Rates
from disheap_http.settings import HttpSettings
from disheap_http.statistics import Statistics

log = get_logger(__name__)

NOWHERE = "none"
NUMBERS = ("/stats", "/metrics")
"""What the second address serves."""


class HttpService:
    """The service `http`: health, status, statistics and metrics of its node."""

    name: ClassVar[str] = "http"
    api: ClassVar[int] = 1
    Settings: ClassVar[type[msgspec.Struct]] = HttpSettings

    def __init__(self, settings: HttpSettings, context: ServiceContext) -> None:
        """Reads the certificates, so that a wrong file is known before anything starts. Raises `ConfigError`."""
        self._settings = settings
        self._context = context
        self._tls = trust.server_context(settings)
        self.addresses: list[str] = []
        for address in self._wanted():
            parse_address(address)
            context.check_listen(address, bool(settings.certfile and settings.cafile))
        self._answers: Counter[int] = Counter()  # by status
        self._rates = Rates()
        self._exposition = Exposition(context.loop, self.collect)
        self._looking: asyncio.Task[None] | None = None
        self._listeners = Listeners(context.loop, settings, self._tls, self._count)

    async def bind(self) -> None:
        """Takes the ports. Raises `ConfigError` for an address that cannot be used."""
        pages = NodePages(self._context).pages()
        pages["/stats"] = Statistics(self._context, self._rates).page
        pages["/metrics"] = self._metrics_page
        pages["/"] = index_page(pages)
        of_numbers = {path: page for path, page in pages.items() if path in NUMBERS}
        for address, served in ((self._settings.listen, pages), (self._settings.metrics_listen, of_numbers)):
            if address != NOWHERE:
                self.addresses.append(await self._listeners.bind(address, Site(served)))

    async def start(self) -> None:
        """Listens, on the ports that were taken or else on those that it takes now."""
        if not self.addresses:
            await self.bind()
        await self._listeners.listen()
        self._looking = self._context.loop.create_task(self._look_at_counters())
        log.info("HTTP is served", addresses=self.addresses)

    async def stop(self) -> None:
        """Ends all connections and stops listening."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None
        await self._listeners.close()
        self.addresses.clear()

    def connections(self) -> int:
        """How many connections are open."""
        return self._listeners.open_connections()

    def reload(self) -> None:
        """Connections made from now on use the certificates as they are now. Raises `ConfigError`."""
        if self._tls is not None:
            trust.reload_context(self._tls, self._settings)

    async def _metrics_page(self, request: Request) -> Answer:
        request.fields()
        return await self._exposition.answer(request.accept)

    async def collect(self) -> list[Metric]:
        """The node's metrics, and the service's own."""
        samples = [((str(status),), float(count)) for status, count in sorted(self._answers.items())]
        return [
            *await self._context.measure(),
            Metric("disheap_http_answers_total", "counter", "Answers over HTTP, by status.", ("status",), samples),
            Metric("disheap_http_connections", "gauge", "Open HTTP connections.", (), [((), self.connections())]),
        ]

    async def _look_at_counters(self) -> None:
        failures = LineLimiter(self._context.loop)
        while True:
            try:
                self._rates.update(self._context.loop.time(), await self._context.measure())
            except Exception:
                failures.write(log.exception, "the counters could not be read")
            await asyncio.sleep(EVERY_S)

    def _count(self, status: int) -> None:
        self._answers[status] += 1

    def _wanted(self) -> list[str]:
        return [one for one in (self._settings.listen, self._settings.metrics_listen) if one != NOWHERE]


if TYPE_CHECKING:
    from disheap.interfaces import Binding, Reloading, Service

    _fits: type[Service] = HttpService
    _binds: type[Binding] = HttpService
    _reloads: type[Reloading] = HttpService
