"""Messages of a query as a table for people, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from disheap.cli.looking.fields import Shown
from disheap.cli.messages import header_text, preview, shortened
from disheap.cli.terminal.output import emit_table, header_fields, payload_fields, printable

if TYPE_CHECKING:
    from disheap.protocol.broker import PeekedMessage

_PLAIN = str | int | float | None


def emit_peeked(found: list[PeekedMessage], labels: dict[int, str]) -> None:
    """A table, with columns for holders, keys, headers and Celery's tasks only where a message has one."""
    tasks = [Shown(message).task() for message in found]
    columns: list[tuple[str, list[object]]] = [
        ("id", [m.id for m in found]),
        ("priority", [m.priority for m in found]),
        ("attempts", [m.attempts for m in found]),
        ("state", [m.state for m in found]),
    ]
    if any(m.session for m in found):
        columns.append(("session", [m.session or "-" for m in found]))
        columns.append(("label", [labels.get(m.session) or "-" for m in found]))
        columns.append(("consumer", [m.consumer or "-" for m in found]))
    if any(m.key for m in found):
        columns.append(("key", [m.key for m in found]))
    if any(m.encoded_headers for m in found):
        shown = [" ".join(f"{name}={header_text(value)}" for name, value in m.headers.items()) for m in found]
        columns.append(("headers", [shortened(one) for one in shown]))
    if any(tasks):
        columns.append(("task", [printable(str(one["task"])) if one else "-" for one in tasks]))
        columns.append(("task id", [printable(str(one.get("id"))) if one else "-" for one in tasks]))
    columns.append(("payload", [_payload(m, one) for m, one in zip(found, tasks, strict=True)]))
    emit_table([name for name, _ in columns], list(zip(*(cells for _, cells in columns), strict=True)))


def _payload(message: PeekedMessage, task: dict[str, Any]) -> str:
    """The beginning of the payload, or what a Celery task is called with: its payload is for Celery to read."""
    if not task:
        return preview(message.payload)
    return shortened(printable(f"{task.get('argsrepr', '')} {task.get('kwargsrepr', '')}"))


def peeked_fields(message: PeekedMessage, labels: dict[int, str]) -> dict[str, Any]:
    """A message of a query as JSON has it. `task` is null unless Celery has sent it."""
    task = {key: value if isinstance(value, _PLAIN) else str(value) for key, value in Shown(message).task().items()}
    return {
        "id": message.id,
        "priority": message.priority,
        "attempts": message.attempts,
        "enqueued_ms": message.enqueued_ms,
        "state": message.state,
        "due_ms": message.due_ms,
        "expires_at_ms": message.expires_at_ms,
        "session": message.session,
        "label": labels.get(message.session, ""),
        "consumer": message.consumer,
        "key": message.key,
        "headers": header_fields(message.headers),
        "task": task or None,
        **payload_fields(message.payload),
    }
