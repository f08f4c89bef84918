"""The hooks of disheap: one for each contract, each asking a distribution which classes it brings.

A plugin is a distribution with an entry point in the group `disheap` that names a module of hooks:

    [project.entry-points.disheap]
    mine = "my_package.hooks"

and that module answers for what it brings. It imports the implementation inside the hook, so that a process pays for
what it uses: a client asks for transports alone, and loads no storage.

    from disheap.plugins import hookimpl

    @hookimpl
    def disheap_register_storage():
        from my_package.storage import MyStorage
        return MyStorage

Every class carries `name`, `api = 1` and `Settings` (see `disheap.interfaces`). Its identity is the kind, which is the
hook's, and the name. This module says what is asked; `registry` asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from disheap.interfaces import Codec, StateMachine, Storage, Transport

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

    Returns one class, or a sequence of classes, that fit `disheap.interfaces.Storage`; they are built as
    `cls(settings, StorageContext(...))`, and apply the codec in that context to whatever they keep. Chosen by
    `storage = "NAME"`; settings come from `[storage.NAME]`.
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
    the same on every node, because they are part of what makes the replicas equal.
    """
