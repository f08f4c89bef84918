"""Who this node is: the cluster, its id, and the membership that its log begins with.

A data directory says it for good, whatever is configured. An empty one takes it from the settings: a static list, a
node alone, or a node that founds a cluster of its own. A node that joins asks the cluster (`runtime.peers.asking`).
Reads no file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from disheap.config.node_config import NodeConfig
from disheap.errors import WrongDirectory
from disheap.interfaces import StoredIdentity
from disheap.kernel.types import Membership, NodeId
from disheap.logs import get_logger
from disheap.runtime.membership.directory import first_membership, own_id

log = get_logger(__name__)

DRAWN_ID_BYTES = 16
"""The length of the id of a cluster that a node has founded: 32 hex digits. A static list gives 16, so the two are
never mistaken."""
FOUNDER = NodeId(1)
NOBODY_YET = Membership(())


class Origin(NamedTuple):
    """`first` is the membership before the first entry. It is empty where the log or a snapshot has one."""

    cluster_id: str
    own: NodeId
    first: Membership
    needs_welcome: bool = False  # the first start of a static list: every other member has to be met


def origin_of(config: NodeConfig, stored: StoredIdentity | None, draw: Callable[[int], bytes]) -> Origin | None:
    """Returns None for a node that has to ask a cluster to let it in, also if it may found one. `stored` is what its
    directory says. `draw` returns that many random bytes. Raises `ConfigError` and `WrongDirectory`."""
    if stored is not None and not _is_configured(config, stored):
        return _kept(config, stored)
    if config.members or config.alone or stored is not None:
        return configured_origin(config)
    if config.bootstrap and not config.join_addresses:
        return founder(config, draw)
    return None


def founder(config: NodeConfig, draw: Callable[[int], bytes]) -> Origin:
    """A node that founds a cluster, whose id it draws."""
    return _founder(config, draw(DRAWN_ID_BYTES).hex())


def configured_origin(config: NodeConfig) -> Origin:
    """What a static list says, or the settings of a node alone. Raises `ConfigError`."""
    first = first_membership(config.member_list())
    own = own_id(config.member_list(), config.name)
    return Origin(config.cluster_id(), own, first, needs_welcome=len(first.members) > 1)


def _is_configured(config: NodeConfig, stored: StoredIdentity) -> bool:
    """Whether the directory was made for what is configured now: a static list, or a node alone."""
    return stored.identity.cluster_id == config.cluster_id()


def _founder(config: NodeConfig, cluster_id: str) -> Origin:
    return Origin(cluster_id, FOUNDER, first_membership([config.own_member()]))


def _kept(config: NodeConfig, stored: StoredIdentity) -> Origin:
    """What the directory says counts."""
    identity = stored.identity
    own = NodeId(identity.node_id)
    if identity.name != config.name:
        raise WrongDirectory(
            f"the data directory belongs to node {own} ({identity.name}) of cluster {identity.cluster_id}, and this "
            f"node is called {config.name!r}. Point data_dir at this node's own directory; nothing was changed"
        )
    if len(identity.cluster_id) == 2 * DRAWN_ID_BYTES:
        return _founder(config, identity.cluster_id) if own == FOUNDER else Origin(identity.cluster_id, own, NOBODY_YET)
    if stored.peers.voters or config.join_addresses:  # a node that has just joined has no membership in its log yet
        log.info("the members are those of the log; the configured list differs and does not count")
        return Origin(identity.cluster_id, own, NOBODY_YET)
    if _has_moved(config, stored):
        log.warning("the addresses in the list of members are others than when the data directory was made")
        return configured_origin(config)._replace(cluster_id=identity.cluster_id)
    raise WrongDirectory(
        f"the data directory belongs to node {own} ({identity.name}) of cluster {identity.cluster_id}. It was "
        "made with another cluster name, or with other names, peer addresses or another order of the members. Set them "
        "back, here and on the other nodes; nothing was changed"
    )


def _has_moved(config: NodeConfig, stored: StoredIdentity) -> bool:
    """Whether the configured list can be that of the directory with other addresses. It has as many members, and this
    node has the same place in it. All others were met, so a handshake tells whether each one is there."""
    place = config.members[stored.identity.node_id - 1 :][:1]
    is_there = bool(place) and place[0].name == config.name
    return stored.peers.takes_part and stored.peers.listed == len(config.members) and is_there
