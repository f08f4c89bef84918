"""A network of its own for each node: namespaces joined by a bridge, with links to pull and routes to black-hole.

Needs root. Everything is made under names of this process alone and removed at the end; the machine's own network is
not touched. The test's clients stand in the bridge's namespace: `enter` moves a thread there.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.chaos.nodes import ChaosCluster, ChaosNode

NETWORK = "10.213.77"
HUB = f"{NETWORK}.254"
_CLONE_NEWNET = 0x40000000
_NAMES = Path("/var/run/netns")


def why_no_namespaces() -> str:
    if not sys.platform.startswith("linux") or not shutil.which("ip"):
        return "network namespaces need Linux and the ip command"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    name = f"chaos{os.getpid()}try"
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", name, "link", "add", "near", "type", "veth", "peer", "name", "far")
    except subprocess.CalledProcessError as error:
        return f"this kernel or its owner allows no namespaces with bridges: {error.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return ""


class Namespaces:
    """`with Namespaces(["n1", "n2"]) as net`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._prefix = f"chaos{os.getpid()}"
        self.hub = f"{self._prefix}hub"
        self.of = {name: f"{self._prefix}{name}" for name in names}
        self.address = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, 1)}

    def __enter__(self) -> Namespaces:
        try:
            _ip("netns", "add", self.hub)
            _ip("-n", self.hub, "link", "add", "bridge0", "type", "bridge")
            _ip("-n", self.hub, "addr", "add", f"{HUB}/24", "dev", "bridge0")
            for name in self.of:
                self._join(name)
            for device in ("lo", "bridge0", *self.of):
                _ip("-n", self.hub, "link", "set", device, "up")
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def pull(self, name: str) -> None:
        """The link goes down, at the node's end."""
        _ip("-n", self.of[name], "link", "set", "eth0", "down")

    def plug(self, name: str) -> None:
        _ip("-n", self.of[name], "link", "set", "eth0", "up")

    def swallow(self, source: str, target: str) -> None:
        """A black-hole route: what `source` sends to `target` vanishes, in that direction alone."""
        _ip("-n", self.of[source], "route", "add", "blackhole", f"{self.address[target]}/32")

    def let_through(self, source: str, target: str) -> None:
        _ip("-n", self.of[source], "route", "del", "blackhole", f"{self.address[target]}/32")

    def enter(self) -> None:
        """This thread's new sockets are in the hub's namespace from here on."""
        libc = ctypes.CDLL(None, use_errno=True)
        with (_NAMES / self.hub).open() as file:
            if libc.setns(file.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def _join(self, name: str) -> None:
        own = self.of[name]
        _ip("netns", "add", own)
        _ip("-n", self.hub, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", own)
        _ip("-n", self.hub, "link", "set", name, "master", "bridge0")
        _ip("-n", own, "addr", "add", f"{self.address[name]}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", own, "link", "set", device, "up")

    def _clear(self) -> None:
        for name in (*self.of.values(), self.hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


class SpreadCluster(ChaosCluster):
    """Each node in a namespace, reached by its own address: no proxies. Enter it after its `Namespaces`."""

    def __init__(self, net: Namespaces) -> None:
        super().__init__(len(net.of))
        self._net = net

    def placed(self, node: ChaosNode) -> None:
        node.host = self._net.address[node.name]
        node.members_peer = f"{node.host}:{node.peer_port}"
        node.members_client = f"{node.host}:{node.client_port}"
        node.prefix = ("ip", "netns", "exec", self._net.of[node.name])


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
