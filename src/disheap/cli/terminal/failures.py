"""What a person sees when something goes wrong: one line that says what happened and what to do next.

Owns the exit codes that are not an exception's own. Some errors have a text that comes from a node and cannot know the
command line: for these it owns what to do next. Text goes to standard error as `disheap: ...`. With `--json` it is one
object there instead, `{"error": CODE, "message": TEXT}`. Standard output holds results only, so that a program reads
JSON there or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from disheap import errors
from disheap.cli.terminal.output import json_text, printable
from disheap.errors import DisheapError, ProtocolError, RequestError

EXIT_OK = 0
EXIT_BUG = 1  # anything nobody foresaw
EXIT_DIFFERENT = 1  # `topic edit --dry-run`: there is a difference, as of `diff`
EXIT_NO_LEADER = 8  # `status`: the cluster answers, and has no leader
EXIT_EMPTY = 9  # `pop`, `peek`: nothing was there
EXIT_DEGRADED = 10  # `status`: there is a leader, and a node is missing or in trouble
EXIT_HALF = 12  # `restore`, `recover`, `verify`: transactions over groups are there in part only
EXIT_INTERRUPTED = 130

USAGE = "usage"
INTERNAL = "internal"

_WAYS_OUT: tuple[tuple[type[DisheapError], str], ...] = (
    (
        errors.ConnectionLost,
        "is a node running there, and does it want TLS (disheaps://)? `disheap dev` starts one; --url or DISHEAP_URL "
        "name another",
    ),
    (errors.RequestTimeout, "`disheap status` shows whether the cluster has a leader; look before repeating it"),
    (errors.OutcomeUnknown, "look with `disheap peek` or `disheap status` before repeating it"),
    (errors.NotLeader, "try again in a moment; `disheap status` shows who leads"),
    (errors.Overloaded, "try again in a moment"),
    (errors.UnknownCommand, "the nodes run another release; use the same one here"),
    (errors.InternalError, "the node's log has the traceback"),
    (errors.MalformedFrame, "check that the address and the port are a disheap node's"),
)
"""Most errors bring their own; these come from where the command line is not known."""
CERTIFICATES = "both sides need certificates of an authority that the other one trusts: see cafile and certfile"
PROTOCOL_CODES = frozenset(errors.protocol_codes())
"""Codes of what a client finds at an address that is no node of its cluster."""


def line(error: BaseException) -> str:
    """One line, however many the message has."""
    if not isinstance(error, DisheapError):
        return f"internal error: {type(error).__name__}: {one_line(str(error))}; report what -v shows"
    message = one_line(str(error)).rstrip(".") or type(error).__name__
    way_out = _way_out(error)
    return f"{joined(message)}{way_out}" if way_out else message


def _way_out(error: DisheapError) -> str:
    if isinstance(error, errors.ConnectionLost) and error.found:
        return "; ".join(_ways_out_of_a_search(error))
    if isinstance(error, errors.ConnectionLost) and "certificate" in str(error):
        return CERTIFICATES
    return next((text for kind, text in _WAYS_OUT if isinstance(error, kind)), "")


def _ways_out_of_a_search(error: errors.ConnectionLost) -> Iterator[str]:
    """What to do about each kind of thing that was found at the addresses. A limit brings its own words."""
    where: dict[str, list[str]] = {}
    for address, code in error.found.items():
        where.setdefault(code, []).append(address)
    if errors.LimitReached.code in where:
        return
    silent, leaderless = where.pop(errors.ConnectionLost.code, []), where.pop(errors.NotLeader.code, [])
    wrong = [address for code, found in where.items() if code in PROTOCOL_CODES for address in found]
    if wrong:
        yield f"correct the URL: {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not of this cluster's nodes"
    if leaderless:
        yield "nodes answer, and none leads: `disheap status` shows which are missing"
    elif silent and "certificate" in str(error):
        yield CERTIFICATES
    elif silent and wrong:
        yield f"is a node running at {', '.join(silent)}?"
    elif silent:
        yield next(text for kind, text in _WAYS_OUT if kind is errors.ConnectionLost)


def code(error: BaseException) -> str:
    """A word for programs: what travels on the wire where there is such a word."""
    if isinstance(error, RequestError | ProtocolError):
        return error.code
    return kebab(type(error).__name__) if isinstance(error, DisheapError) else INTERNAL


def exit_code(error: BaseException) -> int:
    """The exit code for an error."""
    return error.exit_code if isinstance(error, DisheapError) else EXIT_BUG


def told(code: str, text: str, as_json: bool) -> str:
    """The text for standard error: a line for people, or one JSON object."""
    if as_json:
        return json_text({"error": code, "message": text})
    return f"disheap: {printable(text)}"  # it may repeat what a client or a stranger has sent


def joined(message: str) -> str:
    """A message, ready for its way out."""
    return message + (" " if message.endswith("?") else "; ")


def one_line(text: str) -> str:
    """`text` with each run of white space as one space."""
    return " ".join(text.split())


def kebab(name: str) -> str:
    """`RequestTimeout` as `request-timeout`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()
