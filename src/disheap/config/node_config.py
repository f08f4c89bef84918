"""A node's settings: TOML file, then environment, then flags, into frozen structs with bounds.

Later sources win, key by key. Every key is known or an error that names its source. The file is laid out so:

    cluster = "orders"                  # any field of NodeConfig
    name = "n1"
    codec = "none"

    [storage]                           # a plugin is chosen by `use` where it has a table of its own;
    use = "file"                        # storage = "file" is the short form without one
    [storage.file]
    segment_bytes = 67108864

    [raft]
    heartbeat_ms = 100

    [[members]]
    name = "n1"
    peer = "10.0.0.1:8300"
    client = "10.0.0.1:8400"

`http_listen` and `metrics_listen` are short for `listen` and `metrics_listen` in `[service.http]`, with `services =
["http"]`.

In the environment a field is `DISHEAP_<FIELD>`, and a table's is nested by a double underscore:
`DISHEAP_RAFT__HEARTBEAT_MS`, `DISHEAP_STORAGE__FILE__SEGMENT_BYTES`; lists are separated by commas, and
`DISHEAP_MEMBERS` is `n1=PEER/CLIENT,n2=PEER/CLIENT`. `NODE_ID`, `RAFT_BIND`, `RAFT_ADVERTISE`, `BOOTSTRAP` and
`RAFT_JOIN_ADDRESSES` are `name`, `peer_listen`, `peer_advertise`, `bootstrap` and `join_addresses`. An empty variable
counts as unset. Flags have the same names with dots: `raft.heartbeat_ms`.

Does not load plugins: their tables stay as they were given until the registry checks them. `config.sources` reads the
three sources; this module owns what can be set, and what has to fit together.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from disheap.config.cluster_secret import MAKE_ONE
from disheap.config.sources import USE, collect
from disheap.errors import ConfigError, UnsafeListen
from disheap.interfaces import CHOSEN_KINDS, KINDS
from disheap.plugins.settings import Text, check_bounds, convert, origin_of, unknown_key

HTTP_LISTEN, METRICS_LISTEN = "http_listen", "metrics_listen"
SECRET_VARIABLE = "DISHEAP_CLUSTER_SECRET"

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

Name = Annotated[str, Meta(max_length=255)]
Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000)]
Count = Annotated[int, Meta(ge=1, le=1 << 31)]
Bytes = Annotated[int, Meta(ge=4 * KIB, le=64 * GIB)]
FrameBytes = Annotated[int, Meta(ge=0, le=1 * GIB)]
WireBytes = Annotated[int, Meta(ge=4 * KIB, le=1 * GIB)]
Many = Annotated[int, Meta(ge=1, le=1 << 20)]
LongMilliseconds = Annotated[int, Meta(ge=1, le=31_536_000_000)]  # up to a year

VeryLongMilliseconds = Annotated[int, Meta(ge=1, le=3_153_600_000_000)]  # up to a century


class RaftConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[raft]`: the tempo of consensus, and how much log a node keeps."""

    tick_ms: Annotated[int, Meta(ge=1, le=10_000)] = 50  # half a heartbeat; finer ticks only cost wake-ups
    heartbeat_ms: Milliseconds = 100  # two lost in a row are far from an election; idle cost 10 messages/s per peer
    election_timeout_ms: Milliseconds = 1000  # shortest; the longest is twice this: a dead leader costs 1 to 2 s
    commit_timeout_ms: Milliseconds = 50  # how long an idle follower may lag in hearing of a commit
    snapshot_log_bytes: Bytes = 64 * MIB  # below it a replay at start takes about a second; less writes more
    snapshot_threshold: Count = 1_000_000  # entries; bounds replay where entries are tiny
    trailing_entries: Annotated[int, Meta(ge=0, le=1 << 31)] = 10_000  # kept behind a snapshot, so that a peer that
    trailing_bytes: Annotated[int, Meta(ge=0, le=64 * GIB)] = 16 * MIB  # was away for seconds needs no snapshot
    append_bytes: WireBytes = 1 * MIB  # in one AppendEntries: about 8 ms of a 1 Gbit/s link
    inflight_messages: Annotated[int, Meta(ge=1, le=65_536)] = 64  # unanswered per peer: fills 8 ms of delay
    inflight_bytes: WireBytes = 8 * MIB  # the same in bytes; bounds what a slow peer makes the leader hold
    log_cache_bytes: Bytes = 16 * MIB  # of memory, for the tail of the log: peers in step never cost a read
    chunk_bytes: Annotated[int, Meta(ge=4 * KIB, le=1 * MIB)] = 256 * KIB  # of a snapshot; 2 ms of a 1 Gbit/s link
    scrub_bytes_per_s: Annotated[int, Meta(ge=0, le=1 << 40)] = 4 * MIB  # read to find rot; 0: off. 350 GB a day
    scrub_interval_s: Annotated[float, Meta(gt=0, le=31_536_000)] = 86_400.0  # between the beginnings of two passes
    compare_interval_s: Annotated[int, Meta(ge=0, le=31_536_000)] = 600  # of log time between two state hashes; 0: off


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[limits]`: what one node holds, at most, for others."""

    frame_bytes: FrameBytes = 0  # from a client; 0: what the machine's largest command needs, and 2 MiB at least
    max_peer_frame_bytes: FrameBytes = 0  # from a member; 0: four times `frame_bytes`, and 64 MiB at least
    entry_bytes: WireBytes = 256 * KIB  # of commands in one entry: one append stays under a few milliseconds
    gather_bytes: WireBytes = 8 * MIB  # commands waiting for the disk, or one frame; over it clients are not read from
    uncommitted_bytes: Bytes = 64 * MIB  # proposed and not committed: what a leader may lose in a partition
    session_window: Many = 8192  # unanswered commands: four clients' pipelines of 2,000
    session_reply_bytes: Bytes = 16 * MIB  # kept until the client confirms them: a full window of 2 KiB each
    max_reply_bytes: Bytes = 128 * MIB  # kept over all sessions: eight full ones; then one reply for each session
    sessions: Count = 10_000  # replicated state, about 1 KiB each when idle
    max_sessions_per_address: Count = 2_500  # a host of 100 worker processes with their producers has some 1,000
    max_sessions_per_principal: Count = 5_000  # of one certificate name: half of all, a fleet may share one
    reserved_sessions: Annotated[int, Meta(ge=0, le=1_000_000)] = 500  # the last ones: for clients with less than 10
    connections: Many = 4096  # below the usual limit of open files, with rlimit raised
    max_connections_per_address: Many = 1024  # of one IPv4 address or IPv6 /64: a host of workers, and others get in
    max_connections_per_principal: Many = 2048  # of one certificate name: fleets share one, and others get in
    reserved_connections: Annotated[int, Meta(ge=0, le=65_536)] = 64  # beside `connections`, for operators; 0: none
    operator_names: tuple[str, ...] = ()  # certificate names that may use the reserve; this machine always may
    handshake_timeout_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0  # a stranger holds a connection no longer
    idle_timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0  # without a session and a word; a client pings
    write_buffer_bytes: WireBytes = (
        16 * MIB
    )  # unsent to one connection: over it, a client that reads nothing is cut off
    apply_work_limit: Count = 10_000  # units of work per entry: 10 to 40 ms, so that heartbeats are never late
    session_timeout_min_ms: Annotated[int, Meta(ge=1, le=86_400_000)] = 1000  # under it a pause expires sessions
    session_timeout_max_ms: LongMilliseconds = 86_400_000  # a day; then even a forgotten session's leases come back
    reattach_timeout_ms: Annotated[int, Meta(ge=1, le=86_400_000)] = (
        3000  # after a client closed its connection: an exchange of connections takes less, a killed one's tasks wait
    )
    max_clock_jump_ms: LongMilliseconds = 60_000  # a clock further ahead of the log needs a majority that agrees
    max_downtime_ms: VeryLongMilliseconds = 31_536_000_000  # the same of a node alone, which has nobody to ask: a year
    queries: Count = 1024  # reads waiting for their index, per node
    queries_per_connection: Count = 128  # one that does not read its answers leaves the others seven eighths
    input_bytes: Bytes = 64 * MIB  # of unfinished frames, over all connections: 8 of the largest
    output_bytes: Bytes = 256 * MIB  # unsent, over all connections: 16 that take nothing, at `write_buffer_bytes`
    memory_high_water: Annotated[float, Meta(ge=0, le=1)] = 0.4  # of the memory allowed; above it nothing new is taken
    memory_high_water_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 0  # the same in bytes; 0: the share counts
    min_free_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 128 * MIB  # on the disk; below it nothing new is taken


class MetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[metrics]`: what a node counts for others to look at."""

    topics_max: Annotated[int, Meta(ge=0, le=1000)] = 500  # with time series of their own, some 15 each; others summed


class MemberConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node of a static cluster. `client` is "" if it is learned at the peers' handshake."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    peer: Annotated[str, Meta(min_length=1, max_length=255)]
    client: Annotated[str, Meta(max_length=255)] = ""


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a node is told. Built by `load`, or directly by who uses disheap as a library."""

    cluster: Annotated[str, Meta(min_length=1, max_length=255)] = "disheap"
    name: Name = ""  # "" becomes the host's name
    data_dir: str = "disheap-data"
    peer_listen: Name = "127.0.0.1:8300"  # loopback unless told otherwise; ":8300" is every interface
    peer_advertise: Name = ""  # "" is what `peer_listen` says
    client_listen: Name = "127.0.0.1:8400"
    client_advertise: Name = ""
    members: tuple[MemberConfig, ...] = ()  # ids are 1..n in this order: the same list, in the same order, on each node
    alone: bool = False  # this node is a cluster of its own; a node is told this or its cluster, never neither
    bootstrap: bool = False  # found a new cluster, if the data directory is empty, and join_addresses know of none
    join_addresses: tuple[str, ...] = ()  # of peers that let this node in, if its data directory is empty
    join_as_learner: bool = False  # a node that joins gets no vote, until somebody promotes it
    transport: Name = "tcp"
    client_transport: Name = ""  # "" is the same as `transport`
    storage: Name = "file"
    codec: Name = "zstd"
    machine: Name = "heap"
    groups: Annotated[int, Meta(ge=1, le=64)] = 1  # Raft groups, each with its own log, leader and machine
    group_machines: tuple[Name, ...] = ()  # the machine of each group, in order; () is `machine` for all of them
    services: tuple[str, ...] = ()  # plugins of kind `service` that this node runs beside its own protocol
    insecure: bool = False
    cluster_secret: Annotated[str, Meta(max_length=4096)] = ""  # from the environment alone: files and flags are seen
    cluster_secret_file: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False
    raft: RaftConfig = RaftConfig()
    limits: Limits = Limits()
    metrics: MetricsConfig = MetricsConfig()
    plugins: dict[str, dict[str, dict[str, Any]]] = {}  # kind -> name -> settings, as they were given
    source: str = "the configuration"  # the file, for messages about plugin tables

    def __post_init__(self) -> None:
        if not self.name:  # a label that has to be there; resolved here, so that no reader of it has to
            msgspec.structs.force_setattr(self, "name", socket.gethostname())
        check_bounds(self, "")
        check_bounds(self.raft, "raft")
        check_bounds(self.limits, "limits")
        check_bounds(self.metrics, "metrics")
        _check(self)

    def __repr__(self) -> str:
        """Without the secret, which must not stand in a log or in a traceback."""
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={'...' if name == 'cluster_secret' and value else repr(value)}" for name, value in fields)
        return f"NodeConfig({', '.join(shown)})"

    def table(self, kind: str) -> dict[str, dict[str, Any]]:
        """The plugin tables of one kind, as `Registry.build` and `Registry.codec` want them."""
        return self.plugins.get(kind, {})

    def machine_of(self, group: int) -> str:
        """The name of the machine that a group runs."""
        return self.group_machines[group] if self.group_machines else self.machine

    def advertised_peer(self) -> str:
        """Where peers reach this node."""
        return self.peer_advertise or reachable(self.peer_listen, self.name)

    def advertised_client(self) -> str:
        """Where clients reach this node; "" if the port is chosen when it listens."""
        if self.client_listen.endswith(":0") and not self.client_advertise:
            return ""
        return self.client_advertise or reachable(self.client_listen, self.name)

    def member_list(self) -> tuple[MemberConfig, ...]:
        """The first members of the cluster; ids are 1..n by position, the same on every node: `members` in their
        order, or this node alone. A node that joins a cluster learns its members from the log."""
        if self.members:
            return self.members
        return (MemberConfig(name=self.name, peer=self.advertised_peer(), client=self.advertised_client()),)

    def begins_somehow(self) -> bool:
        """Whether the settings say to which cluster this node belongs."""
        return self.alone or self.bootstrap or bool(self.members or self.join_addresses)

    def has_peers(self) -> bool:
        """Whether this node listens for other nodes: it has some, or may get some."""
        return self.bootstrap or bool(self.join_addresses) or len(self.members) > 1

    def own_member(self) -> MemberConfig:
        """This node's place in `member_list`."""
        return next(member for member in self.member_list() if member.name == self.name)

    def cluster_id(self) -> str:
        """16 hex digits from the cluster's name and its first members: nodes that were told different lists never mix.
        A cluster that was founded with `bootstrap` has another id, which its founder has drawn.

        A node alone counts by its name only: nobody else has its address written down, so it may change.
        """
        digest = blake2b(self.cluster.encode(), digest_size=8, person=b"disheap-cluster")
        alone = not self.members
        for member in self.member_list():
            for part in (member.name, "" if alone else member.peer):
                digest.update(b"\0" + part.encode())
        return digest.hexdigest()


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> NodeConfig:
    """Raises `ConfigError`, which names the file, variable or flag, and the key. A flag that is None was not given."""
    tree = collect(file, environ, flags)
    source = str(file) if file else "the configuration"
    _spell_out_http(tree)
    for key, value in tree.items():
        if key not in _KEYS and key not in KINDS:
            raise ConfigError(unknown_key(key, "", origin_of(value, source), list(_KEYS)))
    if "cluster_secret" in tree and origin_of(tree["cluster_secret"], source) != SECRET_VARIABLE:
        raise ConfigError(
            f"{origin_of(tree['cluster_secret'], source)}: cluster_secret stands where others read it. Put it into a "
            f"file of its own and name that (cluster_secret_file), or into the environment ({SECRET_VARIABLE})."
        )
    plugins = {kind: tree.pop(kind) for kind in KINDS if kind in tree}
    for kind, tables in plugins.items():
        if not isinstance(tables, dict) or (USE in tables and kind not in CHOSEN_KINDS):
            raise ConfigError(f'{source}: a node may run several services: write services = ["NAME"], not {kind} = ...')
        if USE in tables:
            tree[kind] = tables.pop(USE)
        _check_tables(kind, tables, source)
    if isinstance(tree.get("members"), Text):
        tree["members"] = _members(tree["members"])
    return convert(NodeConfig, {**tree, "plugins": plugins, "source": source}, "", source)


def _spell_out_http(tree: dict[str, Any]) -> None:
    """`http_listen` and `metrics_listen` are short for settings of the service `http`, and run it."""
    given = {name: tree.pop(name) for name in (HTTP_LISTEN, METRICS_LISTEN) if name in tree}
    if not given:
        return
    services = tree.setdefault("service", {})
    table = services.setdefault("http", {}) if isinstance(services, dict) else {}
    if not isinstance(table, dict):
        return  # what is wrong with it is told later
    for name, value in given.items():
        table.setdefault({HTTP_LISTEN: "listen", METRICS_LISTEN: "metrics_listen"}[name], value)
    named = tree.get("services", ())
    names = [name.strip() for name in named.split(",") if name.strip()] if isinstance(named, Text) else list(named)
    if "http" not in names:
        tree["services"] = [*names, "http"]


_KEYS = tuple(field for field in NodeConfig.__struct_fields__ if field not in ("plugins", "source"))


def check_cluster(config: NodeConfig) -> None:
    """Raises `ConfigError` for a node that was not told its cluster. The schedule that is prevented: three hosts lose
    DISHEAP_MEMBERS to sudo or systemd, and become three brokers, each of which confirms messages."""
    if not config.begins_somehow():
        raise ConfigError(
            "this node was not told who is in its cluster. Give it the same list as the other nodes: members "
            "(DISHEAP_MEMBERS, --member). Or let it join a cluster: join_addresses (RAFT_JOIN_ADDRESSES, --join). Or "
            "let it found one that others join: bootstrap (BOOTSTRAP=true, --bootstrap). If it is a cluster of its "
            "own for good, say so: --alone (DISHEAP_ALONE=1)."
        )


def check_listening(config: NodeConfig, peers_secure: bool, clients_secure: bool, has_secret: bool) -> None:
    """Raises `UnsafeListen`. A node alone does not listen for peers."""
    check_listen(config.client_listen, clients_secure, config.insecure)
    if not config.has_peers():
        return
    check_listen(config.peer_listen, peers_secure, config.insecure)
    if not (peers_secure or has_secret or is_loopback(config.peer_listen)):
        raise UnsafeListen(
            f"refusing to listen for nodes on {config.peer_listen or 'every interface'} without a cluster secret: "
            f'whoever reaches it could say that he is a member. {MAKE_ONE}. Or use transport = "tls".'
        )


def check_listen(address: str, secure: bool, insecure: bool) -> None:
    """Raises `UnsafeListen` for an address beyond loopback where the transport is not `secure` and nobody insisted."""
    if secure or insecure or is_loopback(address):
        return
    raise UnsafeListen(
        f"refusing to listen on {address or 'every interface'} in the clear: whoever reaches it could read and take "
        'every message. Use transport = "tls", or listen on 127.0.0.1, or insist with --insecure (DISHEAP_INSECURE=1).'
    )


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches it. A name other than localhost is taken for a way in."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit():
        return ":" not in address and not _looks_like_a_host(address)  # `inproc` names never leave the process
    host = host.strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reachable(listen: str, name: str) -> str:
    """An address to give to others; every interface is reached by the node's name."""
    host, _, port = listen.rpartition(":")
    return f"{name}:{port}" if host in ("", "0.0.0.0", "[::]") and port else listen


def _looks_like_a_host(address: str) -> bool:
    return not address or "." in address


# --- what has to fit together ----------------------------------------------------------------------------------------


def _check(config: NodeConfig) -> None:
    raft, limits = config.raft, config.limits
    if raft.heartbeat_ms * 2 > raft.election_timeout_ms:
        raise ConfigError(
            f"raft.heartbeat_ms = {raft.heartbeat_ms} is over half of raft.election_timeout_ms = "
            f"{raft.election_timeout_ms}: one late heartbeat would start an election. Raise the election timeout."
        )
    if raft.tick_ms > raft.heartbeat_ms:
        raise ConfigError(f"raft.tick_ms = {raft.tick_ms} is over raft.heartbeat_ms: heartbeats could not be in time.")
    if limits.session_timeout_min_ms > limits.session_timeout_max_ms:
        raise ConfigError("limits.session_timeout_min_ms is over limits.session_timeout_max_ms: no session would fit.")
    ways = {"alone": config.alone, "members": config.members, "bootstrap": config.bootstrap}
    given = [name for name, value in {**ways, "join_addresses": config.join_addresses}.items() if value]
    if len(given) > 1 and given != ["bootstrap", "join_addresses"]:
        raise ConfigError(
            f"{' and '.join(given)} are set. Keep one: a cluster begins with the same members on all nodes, or with "
            "one node that has bootstrap, which the others join (join_addresses). A node alone has no others."
        )
    if 0 < limits.frame_bytes < 4 * KIB:
        raise ConfigError(
            f"limits.frame_bytes = {limits.frame_bytes} is under 4096, and no command would fit. Leave it out, or set "
            "it to 0: then it follows the largest command of the machine."
        )
    if config.group_machines and len(config.group_machines) != config.groups:
        raise ConfigError(
            f"group_machines names {len(config.group_machines)} machines, and groups is {config.groups}. Name one for "
            "each group, in order, or none: then every group runs `machine`."
        )
    if config.members:
        _check_members(config)


def _check_members(config: NodeConfig) -> None:
    for what in ("name", "peer", "client"):
        values = [value for member in config.members if (value := getattr(member, what))]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ConfigError(f"members: {what} {twice[0]!r} is used twice; each node has its own.")
    names = [member.name for member in config.members]
    if config.name not in names:
        raise ConfigError(
            f"this node's name {config.name!r} is not among the members ({', '.join(names)}). "
            "Set name (NODE_ID, --name) to one of them."
        )


def _check_tables(kind: str, tables: Mapping[str, Any], source: str) -> None:
    for name, table in tables.items():
        if not isinstance(table, dict):
            origin = origin_of(table, source)
            raise ConfigError(f"{origin}: [{kind}] {name} is not a table: write [{kind}.{name}], or use = {name!r}.")


def _members(text: Text) -> list[dict[str, str]]:
    members = []
    for item in filter(None, (item.strip() for item in text.split(","))):
        name, equals, addresses = item.partition("=")
        peer, _, client = addresses.partition("/")
        if not (name and equals and peer):
            example = "n1=10.0.0.1:8300/10.0.0.1:8400"
            raise ConfigError(f"{text.origin}: {item!r} is not NAME=PEER/CLIENT, such as {example}.")
        members.append({"name": name, "peer": peer, "client": client})
    return members
