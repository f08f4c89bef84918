"""Whom a node's certificate names, where the transport has one.

One of the proved names has to name the node, and none of them another member. Otherwise the other member could be the
holder (storage-rules 18). A name is that of the node, or its host if no other member is at that host. Owns the texts of
these refusals. Knows no connection.
"""

from __future__ import annotations

from disheap.errors import WrongCluster
from disheap.kernel.types import NodeId
from disheap.protocol.peers import PeerHello
from disheap.runtime.membership.directory import AddressBook

MAX_NAMES_SHOWN = 5
"""Names of a certificate in a refusal, which has to fit one small frame."""


class CertificateChecks:
    """Each check takes the names of a certificate. None: the transport has no certificates, and nothing is checked."""

    def __init__(self, book: AddressBook) -> None:
        self._book = book

    def check_member(self, peer: NodeId, names: tuple[str, ...] | None) -> None:
        """Whether the certificate is that of this member. Raises `WrongCluster`."""
        if names is None:
            return
        book = self._book
        if not names:
            raise WrongCluster(
                f"the certificate of node {peer} has no name, neither a DNS name nor a common name nor an IP address. "
                f"Any member could be its holder. Issue one for {book.name(peer)!r}"
            )
        named = [one for one in book.ids() if self._is_named(one, names)]
        if named == [peer]:
            return
        if peer in named:
            raise WrongCluster(
                f"the certificate names {self._names_of(named)}: any of them could be its holder. Issue one for each "
                "member"
            )
        host = _host(book.peer(peer))
        if host in names and not named:
            raise WrongCluster(
                f"the certificate is for {host!r}, and {self._names_of(self._members_at(host))} are all at that host: "
                f"any of them could be its holder. Issue one with the DNS name {book.name(peer)!r}"
            )
        raise WrongCluster(f"the certificate is for {_listed(names)}, node {peer} is {book.name(peer)!r} at {host!r}")

    def check_stranger(self, hello: PeerHello, names: tuple[str, ...] | None) -> None:
        """Whether the certificate is that of this node, which is no member here. A member of its name is told apart by
        other checks. Raises `WrongCluster`."""
        if names is None:
            return
        book, host = self._book, _host(hello.peer_address)
        others = [one for one in book.ids() if book.name(one) != hello.name]
        named = [one for one in others if self._is_named(one, names, host)]
        is_its_own = hello.name in names or (host in names and not any(_host(book.peer(one)) == host for one in others))
        if named or not is_its_own:
            also = f" and names {self._names_of(named)}" if named else ""
            raise WrongCluster(
                f"the certificate is for {_listed(names)}{also}, and the node is {hello.name!r} at {host!r}. Issue one "
                f"with the DNS name {hello.name!r}"
            )

    def _is_named(self, member: NodeId, names: tuple[str, ...], shared_host: str = "") -> bool:
        """Whether the certificate names the member. `shared_host` is where somebody else is, too."""
        host = _host(self._book.peer(member))
        is_alone = host != shared_host and self._members_at(host) == [member]
        return self._book.name(member) in names or (host in names and is_alone)

    def _members_at(self, host: str) -> list[NodeId]:
        return [one for one in self._book.ids() if _host(self._book.peer(one)) == host]

    def _names_of(self, members: list[NodeId]) -> str:
        return ", ".join(self._book.name(one) for one in members)


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - MAX_NAMES_SHOWN
    return ", ".join(map(repr, names[:MAX_NAMES_SHOWN])) + (f" and {more} other names" if more > 0 else "")
