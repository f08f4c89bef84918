"""What this distribution brings."""

from disheap.plugins import hookimpl


@hookimpl
def disheap_register_codec():
    from disheap_stranger.xor import XorCodec

    return XorCodec


@hookimpl
def disheap_register_transport():
    from disheap_stranger.muffled import MuffledTransport

    return [MuffledTransport]
