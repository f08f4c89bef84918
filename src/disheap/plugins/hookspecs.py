"""The hooks of disheap. One for each contract asks a distribution which classes it brings. Others tell what happened.

A plugin is a distribution with an entry point in the group `disheap` that names a module of hooks:

    [project.entry-points.disheap]
    mine = "my_package.hooks"

and that module answers for what it brings. It imports the implementation inside the hook, so that a process pays for
what it uses. A client asks for transports alone, and loads no storage.

    from disheap.plugins import hookimpl

    @hookimpl
    def disheap_register_storage():
        from my_package.storage import MyStorage
        return MyStorage

Every class carries `name`, `api = 1` and `Settings` (see `disheap.interfaces`). Its identity is the kind, which is the
hook's, and the name. This module says what is asked; `registry` asks.

An observer hook tells a fact. A node calls it on its loop, after the fact, for each implementation by itself. Its
return value is ignored, and it can change nothing. It has to return within a few milliseconds, because the node waits
for it: hand work over to a queue or a thread. An implementation that raises is logged and not called again by that
node. It may take only those arguments that it needs, by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from disheap.interfaces import Codec, Service, StateMachine, Storage, Transport

PROJECT = "disheap"
"""The entry point group, and pluggy's project name."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks an answer to one of the hooks below; a name that is no hook makes the plugin an error, not a silence."""


@hookspec
def disheap_register_transport() -> type[Transport] | Sequence[type[Transport]]:  # type: ignore[empty-body]
    """Transports: how bytes travel between nodes, and between clients and nodes.

    Returns one class, or a sequence of classes, that fit `disheap.interfaces.Transport`; they are built as
    `cls(settings, TransportContext(loop))`. A class that also has `start_connecting` (`BlockingConnect`) serves the
    blocking client. Chosen by `transport = "NAME"`; settings come from `[transport.NAME]`.
    """


@hookspec
def disheap_register_storage() -> type[Storage] | Sequence[type[Storage]]:  # type: ignore[empty-body]
    """Storages: where a node keeps its log, its hard state and its snapshots.

    Returns one class, or a sequence of classes, that fit `disheap.interfaces.Storage`. They are built as `cls(settings,
    StorageContext(...))`, and apply the codec in that context to whatever they keep. Chosen by `storage = "NAME"`;
    settings come from `[storage.NAME]`.
    """


@hookspec
def disheap_register_codec() -> type[Codec] | Sequence[type[Codec]]:  # type: ignore[empty-body]
    """Codecs: what is done to bytes before they are stored, such as compression or encryption.

    Returns one class, or a sequence of classes, that fit `disheap.interfaces.Codec`; they are built as
    `cls(settings, CodecContext(...))`. Chosen by `codec = "NAME"`, or in a chain as `"NAME+OTHER"`, where the first
    one named sees the raw bytes; a name therefore has no `+`. Settings come from `[codec.NAME]`.
    """


@hookspec
def disheap_register_machine() -> type[StateMachine] | Sequence[type[StateMachine]]:  # type: ignore[empty-body]
    """State machines: what the replicated commands do.

    Returns one class, or a sequence of classes, that fit `disheap.interfaces.StateMachine`; they are built as
    `cls(settings, MachineContext())`. Chosen by `machine = "NAME"`; settings come from `[machine.NAME]`, and have to be
    the same on every node. They are part of what makes the replicas equal.
    """


@hookspec
def disheap_register_service() -> type[Service] | Sequence[type[Service]]:  # type: ignore[empty-body]
    """Services: what a node offers beside its own protocol, such as HTTP.

    Returns one class, or a sequence of classes, that fit `disheap.interfaces.Service`; they are built as
    `cls(settings, context)`. Run by `services = ["NAME"]`; settings come from `[service.NAME]`.
    """


# --- observer hooks --------------------------------------------------------------------------------------------------


@hookspec
def disheap_leader_changed(node: str, group: int, term: int, leader: str) -> None:
    """Another node leads the group, as `node` sees it. `leader` is its name, "" while nobody is known to lead."""


@hookspec
def disheap_member_changed(node: str, group: int, index: int, members: tuple[str, ...]) -> None:
    """The members of the group changed with the entry at `index`. `members` are the names of voters and learners."""


@hookspec
def disheap_snapshot_taken(node: str, group: int, index: int, size_bytes: int) -> None:
    """The snapshot of the state at `index` is durable on this node. `size_bytes` is its size before the codec."""


@hookspec
def disheap_quarantined(node: str, group: int, reason: str) -> None:
    """This node takes no part in the group from now on, because its state differs from the others'."""


@hookspec
def disheap_damage_found(node: str, group: int, what: str) -> None:
    """Something that this node has stored is damaged. It is repaired from the other members where that is possible."""


@hookspec
def disheap_session_expired(node: str, group: int, session: int, label: str) -> None:
    """A client's session ended because nobody heard of the client in time. Told by the node that leads."""


OBSERVERS = (
    "disheap_leader_changed",
    "disheap_member_changed",
    "disheap_snapshot_taken",
    "disheap_quarantined",
    "disheap_damage_found",
    "disheap_session_expired",
)
