"""What can be set of storage `file`, and what each bound costs."""

from __future__ import annotations

from typing import Annotated

import msgspec


class FileSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the storage `file`, from the table `[storage.file]`."""

    segment_bytes: Annotated[
        int, msgspec.Meta(ge=64 << 10, le=1 << 30, description="after which a new file is begun")
    ] = 64 << 20
    """Bytes after which a new file is begun. Whole files are deleted, so this is what is kept beyond need; and a new
    file costs three fsyncs."""

    block_bytes: Annotated[
        int, msgspec.Meta(ge=4 << 10, le=16 << 20, description="a larger append becomes several blocks, with one fsync")
    ] = 1 << 20
    """A larger append becomes several blocks with one fsync: to read one entry its whole block is decoded."""
