"""What `disheap_memory` brings: the transport `inproc` and the storage `memory`, both without files or sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disheap.plugins import hookimpl

if TYPE_CHECKING:
    from disheap_memory.inproc import InprocTransport
    from disheap_memory.storage import MemoryStorage


@hookimpl
def disheap_register_transport() -> type[InprocTransport]:
    """The transport `inproc`. Loaded when somebody asks for a transport."""
    from disheap_memory.inproc import InprocTransport

    return InprocTransport


@hookimpl
def disheap_register_storage() -> type[MemoryStorage]:
    """The storage `memory`. Loaded when somebody asks for a storage."""
    from disheap_memory.storage import MemoryStorage

    return MemoryStorage
