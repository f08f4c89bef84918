"""The five contracts: Transport, Storage, Codec, StateMachine, Service.

A plugin class has `name`, `api = 1` and `Settings`, a frozen msgspec struct with bounds. `Settings` is filled from the
plugin's own table of the configuration. The class is built as `cls(settings, context)`. Plugins take values and return
values. They never call back into the kernel. A class with the right methods fits; it need not inherit anything. The
registry refuses a class that lacks a method.

An optional power is a separate interface (`BlockingConnect`, `Screening`). `isinstance` finds it; there is no flag.

Each method says what is durable when it returns, which order it keeps, who owns the bytes, and which errors it raises.
An error that it does not name is a bug of the plugin. In most calls such an error ends the node. The page
`docs/reference/contracts.md` is made from this package. Start reading at `transport`.
"""

from __future__ import annotations

from disheap.interfaces.codec import Codec, CodecContext, Stream, StreamContext
from disheap.interfaces.machine import (
    AllowedWhenFull,
    CommandSizing,
    CrossChecking,
    Discarding,
    Effect,
    Effects,
    FixedConstants,
    Forwarding,
    GroupKnowing,
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
from disheap.interfaces.metrics import Buckets, Histogram, Measuring, Metric
from disheap.interfaces.plugin import API, CHOSEN_KINDS, KINDS, Clock, MemoryEstimating, Plugin, Provenance
from disheap.interfaces.service import Binding, Service, ServiceContext
from disheap.interfaces.storage import (
    Damage,
    Holding,
    Identity,
    IdentityStore,
    Inspectable,
    Inspected,
    KnownPeers,
    LoopAppending,
    LostSnapshot,
    OnFilesystem,
    PeerStore,
    Preallocating,
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
    StoredIdentity,
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
    "Binding",
    "BlockingConnect",
    "BlockingSocket",
    "Buckets",
    "Clock",
    "Codec",
    "CodecContext",
    "CommandSizing",
    "Connection",
    "CrossChecking",
    "Damage",
    "Discarding",
    "Effect",
    "Effects",
    "FixedConstants",
    "Flushing",
    "Forwarding",
    "GroupKnowing",
    "Hashing",
    "Histogram",
    "Holding",
    "Identity",
    "IdentityStore",
    "Inspectable",
    "Inspected",
    "KnownPeers",
    "Listener",
    "LoopAppending",
    "LostSnapshot",
    "MachineContext",
    "Measuring",
    "MemoryEstimating",
    "Metric",
    "OnFilesystem",
    "PeerStore",
    "PendingSocket",
    "Plugin",
    "Preallocating",
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
    "StoredIdentity",
    "Stream",
    "StreamContext",
    "Transport",
    "TransportContext",
    "WorkCounting",
]
