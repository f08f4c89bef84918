"""Sources of plugins that the tests here install for themselves."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from textwrap import dedent

MakeDistribution = Callable[..., metadata.Distribution]

CODEC_SOURCE = """
    from typing import Annotated
    import msgspec
    from disheap.plugins import hookimpl

    class Settings(msgspec.Struct, frozen=True):
        level: Annotated[int, msgspec.Meta(ge=1, le=9, description="how much")] = 3
        words: tuple[str, ...] = ()

    class Mark:
        name, api, Settings = "NAME", 1, Settings
        def __init__(self, settings, context): self.settings = settings
        def new_stream(self, context): return b"NAME" + bytes([self.settings.level]), self
        def open_stream(self, preamble, context): return self
        def encode(self, raw, position): return b"NAME" + raw
        def decode(self, stored, position, raw_limit): return stored[len(b"NAME"):]

    @hookimpl
    def disheap_register_codec():
        return Mark
"""


def codec_source(name: str) -> str:
    """A module of hooks with a codec that writes its name before the bytes."""
    return dedent(CODEC_SOURCE.replace("NAME", name))


BROKEN_HOOK = """
@hookimpl
def disheap_register_storage():
    from nothing_of_this_name import Storage
    return Storage
"""
