"""Which commands there are at a `machine_version`, and what a body is that is none of them.

Replicas of two releases run side by side while a cluster is upgraded. They must give the same reply to the same bytes,
because replies are a part of the state. So a release that knows a later command refuses it below the version of that
command. It decodes and refuses it exactly as a release that does not know it. This is why the decoder itself depends on
the version. A check behind the decoder would see the fields of a later command, and name what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from typing import Any

import msgspec

from disheap.errors import CommandRefused, InvalidArgument, UnknownCommand, VersionTooOld
from disheap_heap.encoding import known_tag
from disheap_heap.state.state import State

Handler = Callable[[State, int, Any], bytes]
"""(state, session, command) -> reply"""
Handlers = Mapping[type[msgspec.Struct], tuple[int, Handler]]
"""Command class -> (since, handler)."""


def tag_of(kind: type[msgspec.Struct]) -> int:
    """The tag of a command or query, the first element of its array."""
    tag = kind.__struct_config__.tag
    assert isinstance(tag, int), f"{kind.__name__} has no number for a tag"
    return tag


class CommandSet:
    """The commands at one version. Of several structs with one tag, the latest that the version has."""

    def __init__(self, handlers: Handlers, version: int) -> None:
        self._version = version
        kinds: dict[int, type[msgspec.Struct]] = {}
        for kind, (since, _) in sorted(handlers.items(), key=lambda item: item[1][0]):
            if since <= version:
                kinds[tag_of(kind)] = kind
        self._kinds = kinds
        self.handlers: dict[type[msgspec.Struct], Handler] = {kind: handlers[kind][1] for kind in kinds.values()}
        union: Any = reduce(or_, kinds.values())
        self.decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(union)

    def refusal(self, body: bytes, error: Exception) -> CommandRefused:
        """What is wrong with a body that `decoder` refused. A whole value with a tag that this version does not have
        is `VersionTooOld`, whether this release knows the command or not."""
        tag = known_tag(body)
        if tag is None or tag in self._kinds or not isinstance(error, msgspec.ValidationError):
            return unreadable(body, error, self._kinds, "command")
        return VersionTooOld(
            f"there is no command with the tag {tag} at machine_version {self._version}, which the cluster runs. That "
            "version rises by itself when every node runs a release that knows the command"
        )


def unreadable(body: bytes, error: Exception, kinds: Mapping[int, Any], what: str) -> CommandRefused:
    """What is wrong with a body that does not decode, as precisely as can be told."""
    if not isinstance(error, msgspec.ValidationError):
        return UnknownCommand(f"a {what} that is not one whole msgpack value: {error}")
    tag = known_tag(body)
    if tag is not None and tag in kinds:
        return InvalidArgument(_wrong_field(kinds[tag], str(error)))
    return UnknownCommand(f"a {what} with the tag {tag!r} is not known to this version; upgrade the nodes")


def _wrong_field(kind: Any, error: str) -> str:
    """msgspec tells the place by number, after the tag; people know the field by its name."""
    reason, _, place = error.partition(" - at `$[")
    number = place.partition("]")[0]
    fields = kind.__struct_fields__
    if number.isdigit() and 0 < int(number) <= len(fields):
        rest = place.partition("]")[2].rstrip("`")
        return f"{fields[int(number) - 1]}{rest} of {kind.__name__} does not fit: {reason}"
    return f"a field of {kind.__name__} does not fit: {error}"
