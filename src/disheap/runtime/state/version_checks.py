"""What this release cannot carry out stops its node, before anything of it is applied (pitfall 30).

Owns no state. The other nodes of the cluster go on.
"""

from __future__ import annotations

from disheap.errors import VersionUnsupported
from disheap.protocol.frames import ENVELOPES_SINCE, LOG_VERSIONS


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
        if version > highest:
            raise VersionUnsupported(
                f"the cluster runs {name} {version}, and this release runs {lowest} to {highest}; install the release "
                "that the other nodes run and start again"
            )
