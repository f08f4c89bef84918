"""Makes a new cluster of one survivor's data, after a majority of the old one is lost for good.

What the survivor has not is lost, confirmed or not. What it has in its log and was never confirmed becomes true: nobody
can tell any more. The survivor's directory stays as it is, and the new cluster gets another one, under another cluster
id. So the old members can never join it, and the step can be taken again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec

from disheap.config.node_config import NodeConfig
from disheap.errors import ConfigError, WrongDirectory
from disheap.runtime.offline.founding import Founding, log_time_of
from disheap.runtime.offline.halves import Half, HalfSearch
from disheap.runtime.offline.restoring import Confirm, RestoredGroup
from disheap.runtime.offline.states import OfflineParts, begin_anew, contents_of
from disheap.runtime.offline.surviving import Survivor, groups_in
from disheap.runtime.offline.verifying import Progress


@contextmanager
def survivors_in(parts: OfflineParts, data_dir: Path) -> Iterator[list[Survivor]]:
    """The data of all groups, locked. Raises `StorageLocked` while the node runs, and what `Storage.inspect` raises."""
    survivors: list[Survivor] = []
    try:
        for group in groups_in(data_dir):
            survivors.append(Survivor(parts, data_dir, group))  # those before are closed, too
        yield survivors
    finally:
        for survivor in survivors:
            survivor.close()


def config_of_survivor(config: NodeConfig, survivors: list[Survivor]) -> NodeConfig:
    """The settings of the new cluster: the survivor founds it, under its old name. Raises `ConfigError` and
    `WrongDirectory`."""
    identities = {(one.found.identity.cluster_id, one.found.identity.name) for one in survivors}
    if len(identities) > 1:
        raise WrongDirectory(f"the groups belong to different nodes or clusters: {sorted(identities)}")
    if config.group_machines and len(config.group_machines) != len(survivors):
        raise ConfigError(
            f"group_machines names {len(config.group_machines)} machines, and the directory has {len(survivors)} groups"
        )
    ((_, name),) = identities
    changes = {"name": name, "groups": len(survivors), "members": (), "join_addresses": (), "alone": False}
    return msgspec.structs.replace(config, **changes, bootstrap=True)


def recover_groups(
    survivors: list[Survivor], founding: Founding, progress: Progress, confirm: Confirm
) -> tuple[list[RestoredGroup], list[Half]] | None:
    """Fill the directory of `founding` with the states of all groups, and finish it. Returns None if `confirm` says
    no. With the groups come transactions that they have in part only. Raises `StorageError`, `VersionUnsupported`
    and `ConfigError`; then nothing is left."""
    founding.begin(survivors[0].found.identity.cluster_id)
    groups: list[RestoredGroup] = []
    search = HalfSearch()
    for survivor in survivors:
        rebuilt = survivor.rebuild(progress)
        at, state = rebuilt.applied, rebuilt.state
        time_ms = log_time_of(founding, at.time_ms, partial(confirm, at.time_ms))
        if time_ms is None:
            return None
        search.add(survivor.group, state.machine)
        ended = begin_anew(state, at.time_ms)
        founding.add(survivor.group, at.index, at.term, time_ms, state)
        groups.append(RestoredGroup(survivor.group, at.index, at.term, time_ms, ended, contents_of(state)))
    founding.finish()
    return groups, search.found
