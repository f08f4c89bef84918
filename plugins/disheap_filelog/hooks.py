"""What `disheap_filelog` brings: the storage `file`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disheap.plugins import hookimpl

if TYPE_CHECKING:
    from disheap_filelog.storage import FileStorage


@hookimpl
def disheap_register_storage() -> type[FileStorage]:
    """The storage `file`. Loaded when somebody asks for a storage."""
    from disheap_filelog.storage import FileStorage

    return FileStorage
