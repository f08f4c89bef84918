"""The five contracts: Transport, Storage, Codec, StateMachine, Service.

A plugin class has `name`, `api = 1` and `Settings`, a frozen msgspec struct with bounds. `Settings` is filled from the
plugin's own table of the configuration. The class is built as `cls(settings, context)`. Plugins take values and return
values. They never call back into the kernel. A class with the right methods fits; it need not inherit anything. The
registry refuses a class that lacks a method.

An optional power is a separate interface (`BlockingConnect`, `Screening`). `isinstance` finds it; there is no flag.

Each method says what is durable when it returns, which order it keeps, who owns the bytes, and which errors it raises.
An error that it does not name is a bug of the plugin. In most calls such an error ends the node. The page
`docs/reference/contracts.md` is made from this package.
"""

from __future__ import annotations

from disheap.interfaces.codec import Codec, CodecContext, Stream, StreamContext
from disheap.interfaces.machine import (
    AllowedWhenFull,
    CommandSizing,
    Discarding,
    Effect,
    Effects,
    FixedConstants,
    Forwarding,
    Hashing,
    MachineContext,
    Principal,
    Sampling,
    SamplingQueries,
    Screening,
    SessionReporting,
    StateMachine,
    WorkCounting,
)
from disheap.interfaces.plugin import API, CHOSEN_KINDS, KINDS, Clock, MemoryEstimating, Plugin, Provenance
from disheap.interfaces.service import Service, ServiceContext
from disheap.interfaces.storage import (
    Damage,
    Holding,
    Identity,
    KnownPeers,
    LoopAppending,
    LostSnapshot,
    OnFilesystem,
    PeerStore,
    Recovered,
    Repairable,
    Rereadable,
    Scrubbable,
    Scrubbed,
    SnapshotReader,
    SnapshotWriter,
    Storage,
    StorageContext,
    StorageUsage,
)
from disheap.interfaces.transport import (
    BlockingConnect,
    BlockingSocket,
    Connection,
    Flushing,
    Listener,
    PendingSocket,
    Receiver,
    Reloading,
    Transport,
    TransportContext,
)

__all__ = [
    "API",
    "CHOSEN_KINDS",
    "KINDS",
    "AllowedWhenFull",
    "BlockingConnect",
    "BlockingSocket",
    "Clock",
    "Codec",
    "CodecContext",
    "CommandSizing",
    "Connection",
    "Damage",
    "Discarding",
    "Effect",
    "Effects",
    "FixedConstants",
    "Flushing",
    "Forwarding",
    "Hashing",
    "Holding",
    "Identity",
    "KnownPeers",
    "Listener",
    "LoopAppending",
    "LostSnapshot",
    "MachineContext",
    "MemoryEstimating",
    "OnFilesystem",
    "PeerStore",
    "PendingSocket",
    "Plugin",
    "Principal",
    "Provenance",
    "Receiver",
    "Recovered",
    "Reloading",
    "Repairable",
    "Rereadable",
    "Sampling",
    "SamplingQueries",
    "Screening",
    "Scrubbable",
    "Scrubbed",
    "Service",
    "ServiceContext",
    "SessionReporting",
    "SnapshotReader",
    "SnapshotWriter",
    "StateMachine",
    "Storage",
    "StorageContext",
    "StorageUsage",
    "Stream",
    "StreamContext",
    "Transport",
    "TransportContext",
    "WorkCounting",
]
