"""Whether two nodes can run the same groups: machine, versions, bounds and constants.

Owns what is refused at a handshake for that reason. Knows neither members nor certificates.
"""

from __future__ import annotations

from collections.abc import Sequence

from disheap.errors import WrongCluster
from disheap.protocol.peers import PeerGroup, PeerHello
from disheap.runtime.membership.directory import supported_by
from disheap.runtime.replica.versions import check_supported
from disheap.version import __version__


def check_groups(hello: PeerHello, own: Sequence[PeerGroup]) -> None:
    """Compare what a peer says of its groups with `own`, in the order of their numbers. How many there are is checked
    elsewhere. Raises `WrongCluster`, and `WrongVersion` when one of the two does not run what the cluster runs."""
    for here, theirs in zip(own, hello.groups, strict=False):
        _check_group(hello, here, theirs)


def _check_group(hello: PeerHello, own: PeerGroup, peers: PeerGroup) -> None:
    name = hello.name
    if peers.machine != own.machine:
        raise WrongCluster(f"{name} runs the machine {peers.machine!r}, this node {own.machine!r}")
    _check_versions(hello, own, peers)
    if peers.settings_digest != own.settings_digest:
        raise WrongCluster(
            f"{name} was given other bounds than this node in [machine.{own.machine}], or in [limits] "
            "for sessions and apply_work_limit. Or it runs a release with other fixed bounds. They decide what "
            "every replica does, so all nodes need the same"
        )
    _check_constants(name, own, peers)


def _check_constants(name: str, own: PeerGroup, peers: PeerGroup) -> None:
    """Raises `WrongCluster` if the constants of a version that both run differ. The cluster may run that version
    later."""
    for version, digest in own.constants_digests.items():
        theirs = peers.constants_digests.get(version, digest)
        if theirs != digest:
            raise WrongCluster(
                f"{name} runs another release of the machine {own.machine!r}, whose constants for "
                f"machine_version {version} differ from those of this node (digest {theirs}, here {digest}). "
                "Replicas would differ. Install the same release on both nodes"
            )


def _check_versions(hello: PeerHello, own: PeerGroup, peers: PeerGroup) -> None:
    """Raises `WrongVersion` unless each node runs the versions that the other's log requires."""
    here, there = (own.machine_version, own.log_version), (peers.machine_version, peers.log_version)
    check_supported(f"{hello.name} (release {hello.release or 'unknown'})", supported_by(peers), here)
    check_supported(f"this node (release {__version__})", supported_by(own), there, hello.name)
