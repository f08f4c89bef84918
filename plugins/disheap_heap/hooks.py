"""What `disheap_heap` brings: the state machine `heap`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disheap.plugins import hookimpl

if TYPE_CHECKING:
    from disheap_heap.machine import HeapMachine


@hookimpl
def disheap_register_machine() -> type[HeapMachine]:
    """The machine `heap`. Loaded when somebody asks for a machine."""
    from disheap_heap.machine import HeapMachine

    return HeapMachine
