"""The fields of a node that are one hash in Redis: whose data these are, in which format, and whom the node has met.

Reads and checks them. `storage` writes them, together with what they belong to.
"""

from __future__ import annotations

from disheap.errors import VersionUnsupported, WrongCodec, WrongDirectory
from disheap.interfaces import Identity, KnownPeers
from disheap_redis import records
from disheap_redis.records import FORMAT
from disheap_redis.server import Server

NOBODY_MET = KnownPeers(False, ())


def read_meta(server: Server, key: str) -> dict[str, bytes]:
    """The fields, by name. Raises `WrongDirectory` if the key is of something else."""
    kind = bytes(server.call("TYPE", key)).decode()
    if kind not in ("none", "hash"):
        raise WrongDirectory(
            f"the key {key} in {server.name} is a {kind}, and no data of disheap. Set another prefix in [storage.redis]"
        )
    flat = server.call("HGETALL", key)
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def check_meta(meta: dict[str, bytes], identity: Identity, server_name: str, codec_name: str) -> None:
    """Raises `VersionUnsupported`, `WrongDirectory` or `WrongCodec` for the data of another node or release."""
    if int(meta.get("format", FORMAT)) > FORMAT:
        raise VersionUnsupported(
            f"the data in {server_name} have the format {int(meta['format'])}, and this release reads up to "
            f"{FORMAT}. Upgrade disheap-redis. Nothing was changed"
        )
    if "identity" not in meta:
        return
    own = records.decode_identity(meta["identity"])
    if (own.cluster_id, own.node_id, own.name) != (identity.cluster_id, identity.node_id, identity.name):
        raise WrongDirectory(
            f"the data in {server_name} belong to node {own.node_id} ({own.name}) of cluster "
            f"{own.cluster_id}, not to node {identity.node_id} ({identity.name}) of cluster {identity.cluster_id}. "
            "Give each node a Redis, or a prefix in [storage.redis]. Nothing was changed"
        )
    if (codec := meta.get("codec", b"").decode()) != codec_name:
        raise WrongCodec(
            f"the data in {server_name} were written with the codec {codec}, and {codec_name} "
            f'is set. Set codec = "{codec}". Nothing was changed'
        )


def peers_of(meta: dict[str, bytes]) -> KnownPeers:
    """The members that the node has met."""
    return records.decode_peers(meta["peers"]) if "peers" in meta else NOBODY_MET
