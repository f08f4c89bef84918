"""Whether a file was written with the codec that is set: its head names it, before anything that is encoded."""

from __future__ import annotations

from disheap.errors import WrongCodec


def check_codec(path: str, written: str, configured: str) -> None:
    """Raises `WrongCodec`."""
    if written != configured:
        raise WrongCodec(
            f"{path} was written with codec '{written}', and the configuration says '{configured}'. Set codec back to "
            f"'{written}'; nothing was changed"
        )
