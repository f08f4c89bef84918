"""Whether a node that connects belongs here: to this cluster, under the id that it names, with the same groups.

Owns the rules of the handshake between nodes, and no connection. Certificates are judged in `certificates`, settings
and versions in `compatibility`, incarnations in `membership.incarnations`.
"""

from __future__ import annotations

from typing import Protocol

from disheap.errors import WrongCluster
from disheap.kernel.types import NodeId
from disheap.protocol.peers import PeerGroup, PeerHello
from disheap.runtime.membership.directory import AddressBook
from disheap.runtime.membership.incarnation_checks import IncarnationChecks
from disheap.runtime.peers.certificates import CertificateChecks
from disheap.runtime.peers.compatibility import check_groups

MAX_STRANGERS = 8
"""Nodes of the cluster that are no members as this node knows them. The members are rarely that far ahead."""


class NodeFacts(Protocol):
    """The node that somebody connects to."""

    cluster_id: str
    cluster_name: str
    name: str
    book: AddressBook

    def peer_groups(self) -> tuple[PeerGroup, ...]:
        """Returns what peers are told of each replica."""


class Standing(Protocol):
    """Where that node stands in its cluster."""

    incarnation_checks: IncarnationChecks
    is_removed: bool
    """Whether the cluster has removed this node."""


class PeerChecks:
    """The rules of one node."""

    def __init__(self, node: NodeFacts, standing: Standing, own: NodeId) -> None:
        self._node = node
        self._standing = standing
        self._id = own
        self._certificates = CertificateChecks(node.book)

    def check_hello(self, hello: PeerHello, certificate_names: tuple[str, ...] | None) -> NodeId:
        """Who a peer is. Raises `WrongCluster` for one that does not belong here, and `WrongVersion` when one of the
        two does not run what the cluster runs."""
        here, peer = self._node, NodeId(hello.node_id)
        if hello.cluster_id != here.cluster_id:
            raise WrongCluster(
                f"{hello.name} belongs to cluster {hello.cluster_id}, this node to {here.cluster_id}. The nodes were "
                "given different member lists or cluster names, or one of the clusters was restored or recovered"
            )
        if hello.target != self._id and not hello.request:  # a request may reach any node
            raise WrongCluster(f"{hello.name} looks for node {hello.target} here, but this is node {self._id}")
        if peer == self._id or peer <= 0:
            raise WrongCluster(f"{hello.name} says it is node {peer}, which is not one of the other members")
        if self._standing.is_removed:
            raise WrongCluster(f"this node ({here.name}) was removed from the cluster; it takes no part any more")
        if here.book.is_removed(peer):
            return peer  # it is told so when it was welcomed
        check_groups(hello, self._node.peer_groups())
        if peer in here.book.ids():
            self._certificates.check_member(peer, certificate_names)
        else:
            self._check_stranger(peer, hello, certificate_names)
        self._standing.incarnation_checks.check(peer, hello)
        return peer

    def _check_stranger(self, peer: NodeId, hello: PeerHello, names: tuple[str, ...] | None) -> None:
        """A node that is not among the members as this node knows them. They may have changed meanwhile, and then a
        stale member has to hear the new leader (pitfall 8). Raises `WrongCluster`."""
        book = self._node.book
        strangers = [one for one in book.strangers() if one != peer]
        if not hello.peer_address:
            raise WrongCluster(f"{hello.name} says it is node {peer}, which is not one of the other members")
        if len(strangers) >= MAX_STRANGERS:
            raise WrongCluster(
                f"{hello.name} says it is node {peer}, which is one of too many that are no members here"
            )
        self._certificates.check_stranger(hello, names)

    def check_request(self, hello: PeerHello, certificate_names: tuple[str, ...] | None) -> None:
        """Whether a node may ask for a change of the members. Raises `WrongCluster` and `WrongVersion`."""
        here = self._node
        if self._standing.is_removed:
            raise WrongCluster(f"this node ({here.name}) was removed from the cluster; ask another one")
        if hello.node_id:
            self.check_hello(hello, certificate_names)
            return
        if hello.cluster != here.cluster_name:
            raise WrongCluster(
                f"{hello.name} wants to join a cluster called {hello.cluster!r}, and this one is called "
                f"{here.cluster_name!r}. Set `cluster` to the same name, or ask at other addresses"
            )
        if len(hello.groups) != len(here.peer_groups()):
            raise WrongCluster(
                f"{hello.name} hosts {len(hello.groups)} groups, this node {len(here.peer_groups())}: set `groups` to "
                "the same number on all nodes"
            )
        check_groups(hello, self._node.peer_groups())
        self._certificates.check_stranger(hello, certificate_names)
