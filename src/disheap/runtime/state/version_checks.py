"""What this release cannot carry out stops its node, before anything of it is applied (pitfall 30).

Owns no state. The other nodes of the cluster go on.
"""

from __future__ import annotations

from disheap.errors import VersionUnsupported
from disheap.protocol.frames import ENVELOPES_SINCE, LOG_VERSIONS, Kind

FIRST_MACHINE_VERSION = 1
"""What the commands of a log are of, if the log does not begin with a RAISE_VERSION."""


def check_first_kind(kind: int, index: int, machine_versions: tuple[int, int]) -> None:
    """Raises `VersionUnsupported` for a log that begins with commands of version 1, in a release that no longer runs
    it. To apply them as commands of a later version would make the replicas differ."""
    if kind != Kind.RAISE_VERSION:
        raise _left_out("machine_version", FIRST_MACHINE_VERSION, machine_versions, f"entry {index} was written at")


def check_kind(kind: int, index: int, log_version: int) -> None:
    """Raises `VersionUnsupported` for an envelope that the cluster's `log_version` does not have, on old and new
    releases alike. To pass over what another release carries out would make the replicas differ."""
    if ENVELOPES_SINCE.get(kind, log_version + 1) > log_version:
        raise VersionUnsupported(
            f"entry {index} holds an envelope of kind {kind}. It does not exist in log_version {log_version}, which "
            f"the cluster runs; this release runs {LOG_VERSIONS[0]} to {LOG_VERSIONS[1]}. Install the release that the "
            "other nodes run and start again"
        )


def check_versions(machine_version: int, log_version: int, machine_versions: tuple[int, int]) -> None:
    """Raises `VersionUnsupported` for a version that this release does not run. `machine_versions`: the lowest and the
    highest that its machine runs."""
    for name, version, (lowest, highest) in (
        ("machine_version", machine_version, machine_versions),
        ("log_version", log_version, LOG_VERSIONS),
    ):
        if version < lowest:
            raise _left_out(name, version, (lowest, highest), "the cluster ran")
        if version > highest:
            raise VersionUnsupported(
                f"the cluster runs {name} {version}, and this release runs {lowest} to {highest}; install the release "
                "that the other nodes run and start again"
            )


def _left_out(name: str, version: int, versions: tuple[int, int], what: str) -> VersionUnsupported:
    return VersionUnsupported(
        f"{what} {name} {version}, and this release runs {versions[0]} to {versions[1]}. Install an older release "
        "first, which runs both, and let it take a snapshot"
    )
