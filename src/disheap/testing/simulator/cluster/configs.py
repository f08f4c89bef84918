"""The settings of simulated nodes: bounds far below the defaults, drawn from the seed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from disheap.config.node_config import Limits, MemberConfig, NodeConfig, RaftConfig
from disheap.testing.simulator.world.rng import Rng

MIN_FREE_BYTES = 1 << 20
MEMORY_MARKS = (1 << 30, 1 << 30, 100 << 10)
"""High-water marks. The lowest is reached by some hundred messages and an end of the log."""


def founding(config: NodeConfig, asks: Sequence[str] = ()) -> NodeConfig:
    """The settings of a node that founds a cluster, which others join. It asks at the peer addresses `asks` first
    whether there is one."""
    return msgspec.structs.replace(config, members=(), bootstrap=True, join_addresses=tuple(asks))


def joining(config: NodeConfig, name: str, machine: str, addresses: Sequence[str], learner: bool = False) -> NodeConfig:
    """The settings of a node called `name` that joins the cluster of `config`, on a machine of that name. `addresses`
    are those of its members for peers."""
    return msgspec.structs.replace(
        config,
        name=name,
        members=(),
        bootstrap=False,
        join_addresses=tuple(addresses),
        join_as_learner=learner,
        peer_listen=f"{machine}:8300",
        client_listen=f"{machine}:8400",
    )


def node_configs(count: int, rng: Rng, machines: tuple[str, ...] = ()) -> list[NodeConfig]:
    """Returns one for each node. `machines` names the machine of each group; () is one group with a heap. The bounds
    are so low that a few hundred commands reach them."""
    members = tuple(MemberConfig(f"n{number}", f"n{number}:8300", f"n{number}:8400") for number in range(1, count + 1))
    raft = RaftConfig(
        tick_ms=100,
        heartbeat_ms=200,
        election_timeout_ms=rng.pick((1000, 1500)),
        commit_timeout_ms=100,
        snapshot_log_bytes=rng.pick((4 << 10, 16 << 10, 1 << 20)),
        snapshot_threshold=rng.pick((15, 40, 150)),
        trailing_entries=rng.pick((0, 5, 40)),
        trailing_bytes=rng.pick((0, 2 << 10, 64 << 10)),
        append_bytes=rng.pick((4 << 10, 64 << 10)),
        inflight_messages=rng.pick((1, 4, 16)),
        inflight_bytes=64 << 10,
        log_cache_bytes=rng.pick((4 << 10, 64 << 10)),
        chunk_bytes=4 << 10,
        compare_interval_s=rng.pick((1, 5)),
        scrub_interval_s=rng.pick((2.0, 10.0, 1000.0)),
    )
    limits = Limits(
        frame_bytes=64 << 10,
        entry_bytes=rng.pick((4 << 10, 64 << 10)),
        session_window=rng.pick((16, 256)),
        max_reply_bytes=rng.pick((4 << 10, 128 << 20)),
        min_free_bytes=MIN_FREE_BYTES,
        memory_high_water_bytes=rng.pick(MEMORY_MARKS),
    )
    first = NodeConfig(
        name="n1",
        members=members,
        data_dir="/disk",
        transport="sim",
        storage="file",
        codec=rng.pick(("none", "none", "zstd")),
        cluster_secret=rng.pick(("", "of a simulated cluster, in the clear".replace(" ", "-"))),
        raft=raft,
        limits=limits,
        groups=max(1, len(machines)),
        group_machines=machines,
        plugins={"storage": {"file": {"segment_bytes": 64 << 10, "block_bytes": rng.pick((4 << 10, 64 << 10))}}},
    )
    return [
        msgspec.structs.replace(first, name=member.name, peer_listen=member.peer, client_listen=member.client)
        for member in members
    ]
