"""Lists sessions for operators, and ends them. The requests need no session, so they work when no further session is
possible.

Only the leader knows who is connected and who is silent, so only the leader answers.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any, NamedTuple

from disheap.errors import InvalidArgument, Overloaded
from disheap.interfaces import SessionReporting
from disheap.runtime.clients.server import Server
from disheap.runtime.replica.group import Group
from disheap.runtime.state.machine_stats import read_stats
from disheap.runtime.state.session_table import Session

PAGE_MAX = 500
"""Sessions in one answer: some 100 KiB, and at most 1.2 MB with the longest labels and names."""
PAGE = 100
ROWS_S = 0.005
"""Rows are made for so long, and one row more, before the loop has its turn."""
END_TIMEOUT_S = 10.0
"""The end of a session is an entry in the log; after this there is no majority, or the disk hangs."""


class Page(NamedTuple):
    """A page of sessions: at most `limit`, with larger numbers than `after`, and labels that begin with `label`."""

    after: int
    limit: int
    label: str


def read_page(request: dict[str, Any]) -> Page:
    """Raises `InvalidArgument`."""
    after, limit, label = request.get("after", 0), request.get("limit", PAGE), request.get("label", "")
    if not isinstance(after, int) or not isinstance(label, str):
        raise InvalidArgument("`after` is the number of a session, and `label` is text")
    if not isinstance(limit, int) or not 1 <= limit <= PAGE_MAX:
        raise InvalidArgument(f"`limit` is 1 to {PAGE_MAX} sessions, not {limit!r}")
    return Page(after, limit, label)


async def list_sessions(group: Group, server: Server, page: Page) -> dict[str, Any]:
    """The oldest first; numbers grow with time. `next_after` goes on from here, and is None at the end. A machine may
    take a millisecond for each session, so there are pauses between two of them."""
    table = group.sessions.table
    chosen = (s for s in table.values() if s.id > page.after and s.facts.label.startswith(page.label))
    found = list(islice(chosen, page.limit + 1))
    shown = found[: page.limit]
    rows = []
    pause_at = server.loop.time() + ROWS_S
    for session in shown:
        rows.append(_row(group, server, session))
        if server.loop.time() >= pause_at:
            await asyncio.sleep(0)
            pause_at = server.loop.time() + ROWS_S
    return {
        "sessions": rows,
        "total": len(table),
        "next_after": shown[-1].id if len(found) > page.limit else None,
    }


def _row(group: Group, server: Server, session: Session) -> dict[str, Any]:
    machine, facts = group.sessions.machine, session.facts
    machine_stats: dict[str, int] = {}
    machine_stats_error = ""
    if isinstance(machine, SessionReporting):
        machine_stats, machine_stats_error = read_stats(lambda: machine.session_stats(session.id))
    return {
        "session": session.id,
        "label": facts.label,
        "address": session.address,
        "principal": facts.principal,
        "age_ms": max(0, group.now_ms() - facts.opened_ms),
        "timeout_ms": facts.timeout_ms,
        "attached": server.is_attached(session.id),
        "silent_ms": int(server.silent_s(session.id) * 1000),
        "unconfirmed_replies": len(session.replies),
        "machine_stats": machine_stats,
        "machine_stats_error": machine_stats_error,
    }


async def end_session(group: Group, server: Server, request: dict[str, Any]) -> dict[str, Any]:
    """Raises `InvalidArgument` where there is no such session, `NotLeader` and `Overloaded`."""
    number = request.get("session")
    session = group.sessions.table.get(number) if isinstance(number, int) else None
    if session is None:
        raise InvalidArgument(f"there is no session {number}; `disheap session ls` shows those that there are")
    try:
        async with asyncio.timeout(END_TIMEOUT_S):
            await server.end_session(session.id)
    except TimeoutError:
        raise Overloaded(
            f"session {number} has not ended within {END_TIMEOUT_S:g} s; it may still end. Look again later"
        ) from None
    return {"session": number, "label": session.facts.label, "address": session.address}
