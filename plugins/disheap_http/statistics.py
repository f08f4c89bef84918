"""The page `/stats`: one node in one JSON object, with a page of topics.

Owns its bounds: how many topics one answer has, and how many are read before the loop runs again.
"""

from __future__ import annotations

import asyncio
from typing import Any

from disheap.interfaces import ServiceContext
from disheap_http.messages import Answer, Request, as_json, read_number
from disheap_http.pages import GROUPS_MAX, STATUS_S
from disheap_http.rates import Rates

ROWS, ROWS_MAX = 100, 1000
"""Topics of one answer: by default, and at most."""
ROWS_AT_ONCE = 50
"""Read in one turn of the loop. It takes some milliseconds."""
OF_STATUS = (
    "cluster_id", "node", "version", "uptime_s", "group", "role", "leader", "machine", "log_time_ms", "groups", "disk",
    "memory",
)  # fmt: skip
"""What is taken over from the node's status."""


class Statistics:
    """Implements the page."""

    def __init__(self, context: ServiceContext, rates: Rates) -> None:
        self._context = context
        self._rates = rates

    async def page(self, request: Request) -> Answer:
        """`group`, `prefix`, `after` and `limit` choose the topics."""
        fields = request.fields("group", "prefix", "after", "limit")
        group = read_number(fields, "group", 0, 0, GROUPS_MAX)
        limit = read_number(fields, "limit", ROWS, 0, ROWS_MAX)
        async with asyncio.timeout(STATUS_S):
            status = await self._context.status(group)
        rows, matching = await self._rows(group, fields.get("prefix", ""), fields.get("after", ""), limit)
        content = {name: status[name] for name in OF_STATUS if name in status}
        content["sessions"] = sum(row["sessions"] for row in status.get("groups", ()))
        content["connections"] = self._context.metrics().get("disheap_connections", 0)
        content["totals"] = status.get("machine_stats", {})
        content["topics"] = [self._row(group, row) for row in rows]
        content["topics_matching"] = matching
        content["next"] = rows[-1]["name"] if len(rows) == limit and rows else None
        return as_json(200, content)

    async def _rows(self, group: int, prefix: str, after: str, limit: int) -> tuple[list[dict[str, Any]], int]:
        rows: list[dict[str, Any]] = []
        while True:
            page = min(ROWS_AT_ONCE, limit - len(rows))
            found, matching = self._context.list_stats(group, prefix, after, page)
            rows += found
            if len(found) < page or len(rows) >= limit:
                return rows, matching
            after = found[-1]["name"]
            await asyncio.sleep(0)

    def _row(self, group: int, row: dict[str, Any]) -> dict[str, Any]:
        topic = {"topic": row["name"], **row, "rates": self._rates.of(group, row["name"])}
        del topic["name"]
        return topic
