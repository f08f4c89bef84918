"""What a release says of a file that a newer one wrote. It must not be taken for damage, which would be repaired."""

from __future__ import annotations

from disheap.errors import VersionUnsupported


def check_version(path: str, found: int, supported: int) -> None:
    """Raises `VersionUnsupported` for a later version than `supported`. Call it only for bytes whose checksum holds: a
    bit that rotted is damage."""
    if found > supported:
        raise VersionUnsupported(
            f"{path} has format version {found}, and this release reads up to {supported}. A newer release wrote it. "
            "Install that release, or a later one, and start again; the data are unchanged"
        )
