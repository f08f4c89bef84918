"""What `disheap_codecs` brings: the codecs `none` and `zstd`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from disheap.plugins import hookimpl

if TYPE_CHECKING:
    from disheap_codecs.plain import NoneCodec
    from disheap_codecs.zstd import ZstdCodec


@hookimpl
def disheap_register_codec() -> tuple[type[NoneCodec], type[ZstdCodec]]:
    """The codecs `none` and `zstd`. Loaded when somebody asks for a codec."""
    from disheap_codecs.plain import NoneCodec
    from disheap_codecs.zstd import ZstdCodec

    return NoneCodec, ZstdCodec
