"""A node's settings: where they come from, which source wins, what has to fit (docs/reference/configuration.md)."""

from __future__ import annotations

import re
import socket
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from disheap.config.node_config import (
    Limits,
    MemberConfig,
    NodeConfig,
    RaftConfig,
    check_listen,
    is_loopback,
    load,
)
from disheap.errors import ConfigError, UnsafeListen

THREE = "n1=10.0.0.1:8300/10.0.0.1:8400, n2=10.0.0.2:8300/10.0.0.2:8400, n3=10.0.0.3:8300"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        file = tmp_path / "disheap.toml"
        file.write_text(text)
        return file

    return write


# --- sources ---------------------------------------------------------------------------------------------------------


def test_without_any_source_everything_has_its_default_and_listens_on_loopback() -> None:
    config = load(None, {}, {})
    assert config == NodeConfig()
    assert config.name == socket.gethostname()
    assert (config.peer_listen, config.client_listen) == ("127.0.0.1:8300", "127.0.0.1:8400")
    assert (config.transport, config.storage, config.codec, config.machine) == ("tcp", "file", "zstd", "heap")


def test_a_whole_file_is_read(write: Any) -> None:
    config = load(
        write("""
            cluster = "orders"
            name = "n2"
            codec = "none"
            insecure = true
            [storage]
            use = "memory"
            [storage.file]
            segment_bytes = 65536
            [transport.tls]
            certfile = "n2.pem"
            [raft]
            heartbeat_ms = 200
            [limits]
            handshake_timeout_s = 2
            [[members]]
            name = "n2"
            peer = "10.0.0.2:8300"
            client = "10.0.0.2:8400"
            [[members]]
            name = "n1"
            peer = "10.0.0.1:8300"
        """),
        {},
        {},
    )
    assert (config.cluster, config.name, config.codec, config.insecure) == ("orders", "n2", "none", True)
    assert (config.storage, config.transport) == ("memory", "tcp")
    assert config.table("storage") == {"file": {"segment_bytes": 65536}}
    assert config.table("transport") == {"tls": {"certfile": "n2.pem"}}
    assert config.table("codec") == {}
    assert config.raft == RaftConfig(heartbeat_ms=200)
    assert config.limits == Limits(handshake_timeout_s=2.0)
    assert config.member_list() == (
        MemberConfig("n2", "10.0.0.2:8300", "10.0.0.2:8400"),
        MemberConfig("n1", "10.0.0.1:8300", ""),
    )


def test_the_environment_wins_over_the_file_and_flags_win_over_both(write: Any) -> None:
    file = write('name = "file"\ncluster = "file"\ndata_dir = "file"\n[raft]\ntick_ms = 10\nheartbeat_ms = 20\n')
    environ = {"DISHEAP_CLUSTER": "environment", "DISHEAP_NAME": "environment", "DISHEAP_RAFT__HEARTBEAT_MS": "30"}
    config = load(file, environ, {"name": "flag", "raft.commit_timeout_ms": 40, "codec": None})
    assert (config.data_dir, config.cluster, config.name) == ("file", "environment", "flag")
    assert (config.raft.tick_ms, config.raft.heartbeat_ms, config.raft.commit_timeout_ms) == (10, 30, 40)
    assert config.codec == "zstd"


def test_the_seeds_names_work_as_they_stand() -> None:
    config = load(
        None,
        {
            "NODE_ID": "node-2",
            "RAFT_BIND": ":8300",
            "RAFT_ADVERTISE": "engine-2:8300",
            "BOOTSTRAP": "false",
            "RAFT_JOIN_ADDRESSES": "engine-1:8300,engine-3:8300",
        },
        {},
    )
    assert (config.name, config.peer_listen, config.peer_advertise) == ("node-2", ":8300", "engine-2:8300")
    assert config.bootstrap is False
    assert config.join_addresses == ("engine-1:8300", "engine-3:8300")


def test_a_prefixed_variable_wins_over_the_seeds_and_an_empty_one_is_unset() -> None:
    config = load(None, {"NODE_ID": "seed", "DISHEAP_NAME": "ours", "RAFT_JOIN_ADDRESSES": "", "BOOTSTRAP": ""}, {})
    assert config.name == "ours"
    assert config.join_addresses == ()
    assert config.bootstrap is False


@pytest.mark.parametrize(
    ("words", "value"), [("1", True), ("true", True), ("True", True), ("0", False), ("false", False)]
)
def test_switches_are_spelled_as_usual(words: str, value: bool) -> None:
    assert load(None, {"DISHEAP_INSECURE": words}, {}).insecure is value


def test_a_plugin_is_chosen_beside_its_tables_from_any_source(write: Any) -> None:
    file = write('codec = "none"\n[storage.file]\nsegment_bytes = 1\n')
    environ = {"DISHEAP_STORAGE": "memory", "DISHEAP_STORAGE__FILE__FLUSH": "2", "DISHEAP_CODEC__ZSTD__LEVEL": "3"}
    config = load(file, environ, {"codec": "zstd", "storage.file.other": "4"})
    assert (config.storage, config.codec) == ("memory", "zstd")
    assert config.plugins == {
        "codec": {"zstd": {"level": "3"}},
        "storage": {"file": {"segment_bytes": 1, "flush": "2", "other": "4"}},
    }


def test_members_can_be_written_in_one_variable() -> None:
    config = load(None, {"DISHEAP_MEMBERS": THREE, "NODE_ID": "n2"}, {})
    assert [(member.name, member.peer, member.client) for member in config.member_list()] == [
        ("n1", "10.0.0.1:8300", "10.0.0.1:8400"),
        ("n2", "10.0.0.2:8300", "10.0.0.2:8400"),
        ("n3", "10.0.0.3:8300", ""),
    ]
    assert config.own_member().name == "n2"


def test_variables_of_others_are_left_alone() -> None:
    environ = {
        "DISHEAP_REQUIRE_ALL": "1",
        "DISHEAP_URL": "disheap://somewhere",
        "DISHEAP_SERVICE_HOST": "10.96.0.7",
        "DISHEAP_SERVICE_PORT_CLIENT": "8400",
        "DISHEAP_PORT": "tcp://10.96.0.7:8400",
        "DISHEAP_PORT_8400_TCP_ADDR": "10.96.0.7",
        "DISHEAP_ENGINE_1_PORT_8300_TCP": "tcp://10.96.0.8:8300",
        "DISHEAP_EXAMPLE_BROKER": "disheap://somewhere",
        "PATH": "/bin",
    }
    assert load(None, environ, {}) == NodeConfig()


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"DISHEAP_CLUSTR": "x"}, r"DISHEAP_CLUSTR: unknown setting 'clustr'.*Did you mean cluster\?"),
        (
            {"DISHEAP_RAFT__HEARTBEET_MS": "1"},
            r"DISHEAP_RAFT__HEARTBEET_MS: unknown setting 'heartbeet_ms' in \[raft\]",
        ),
        ({"DISHEAP_RAFT__HEARTBEAT_MS": "0"}, r"DISHEAP_RAFT__HEARTBEAT_MS: \[raft\] heartbeat_ms = 0 .* >= 1"),
        ({"DISHEAP_RAFT__HEARTBEAT_MS": "soon"}, r"DISHEAP_RAFT__HEARTBEAT_MS: .* heartbeat_ms = soon does not fit"),
        ({"DISHEAP_RAFT__HEARTBEAT_MS": "900"}, r"heartbeat_ms = 900 is over half of raft.election_timeout_ms = 1000"),
        ({"DISHEAP_RAFT__TICK_MS": "101"}, r"tick_ms = 101 is over raft.heartbeat_ms"),
        ({"DISHEAP_RAFT": "1"}, r"DISHEAP_RAFT: raft = 1 does not fit"),
        ({"DISHEAP_CLUSTER__X": "1"}, r"DISHEAP_CLUSTER__X: cluster = .* does not fit"),
        ({"DISHEAP_PLUGINS__STORAGE": "1"}, r"DISHEAP_PLUGINS__STORAGE: unknown setting 'plugins'"),
        ({"DISHEAP_LOG_LEVEL": "loud"}, r"log_level = loud does not fit: .*one of 'debug' \| 'error'"),
        ({"DISHEAP_INSECURE": "perhaps"}, r"DISHEAP_INSECURE: insecure = perhaps does not fit: .*; true or false"),
        ({"DISHEAP_STORAGE__FILE": "1"}, r"DISHEAP_STORAGE__FILE: \[storage\] file is not a table"),
        ({"DISHEAP_MEMBERS": "n1"}, r"DISHEAP_MEMBERS: 'n1' is not NAME=PEER/CLIENT"),
        ({"DISHEAP_MEMBERS": THREE, "NODE_ID": "n4"}, r"'n4' is not among the members \(n1, n2, n3\)"),
        ({"DISHEAP_MEMBERS": "n1=a:1,n1=b:1", "NODE_ID": "n1"}, r"members: name 'n1' is used twice"),
        ({"DISHEAP_MEMBERS": "n1=a:1,n2=a:1", "NODE_ID": "n1"}, r"members: peer 'a:1' is used twice"),
        ({"DISHEAP_MEMBERS": "n1=a:1/c:1,n2=b:1/c:1", "NODE_ID": "n1"}, r"members: client 'c:1' is used twice"),
        (
            {"DISHEAP_LIMITS__SESSION_TIMEOUT_MIN_MS": "2000", "DISHEAP_LIMITS__SESSION_TIMEOUT_MAX_MS": "1000"},
            r"session_timeout_min_ms is over",
        ),
        ({"DISHEAP_LIMITS__FRAME_BYTES": "4095"}, r"limits.frame_bytes = 4095 is under 4096.*set it to 0"),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_wrong(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(None, environ, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clustr = 'x'", r"unknown setting 'clustr' in the top level\. Did you mean cluster\?"),
        ("plugins = 1", r"unknown setting 'plugins'"),
        ("source = 'x'", r"unknown setting 'source'"),
        ("[raft]\nticks = 1", r"unknown setting 'ticks' in \[raft\]"),
        ("[raft]\ntick_ms = '1'", r"\[raft\] tick_ms = '1' does not fit: Expected `int`, got `str`"),
        ("raft = 1", r"raft = 1 does not fit"),
        ("[cluster]\nname = 'x'", r"cluster = .* does not fit"),
        ("storage = 'file'\n[storage.file]\na = 1", r'is not TOML: .*write \[storage\] use = "file"'),
        ("[storage]\nfile = 1", r"\[storage\] file is not a table"),
        ("[[members]]\npeer = 'a:1'", r"missing required field `name`"),
        ("[[members]]\nname = 'n'\npeer = 'a:1'\nport = 1", r"unknown field `port`"),
        ("name = ", r"is not TOML"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(write: Any, text: str, said: str) -> None:
    file = write(text)
    with pytest.raises(ConfigError, match=rf"(?s){re.escape(str(file))}: .*{said}"):
        load(file, {}, {})


def test_a_file_that_is_not_there_or_not_text_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml", {}, {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.toml: is not UTF-8"):
        load(tmp_path / "binary.toml", {}, {})


def test_a_flag_is_named_as_it_was_written() -> None:
    with pytest.raises(ConfigError, match=r"--log-level: log_level = loud"):
        load(None, {}, {"log_level": "loud"})
    with pytest.raises(ConfigError, match=r"--set raft\.tick_ms: \[raft\] tick_ms = 0"):
        load(None, {}, {"raft.tick_ms": 0})


def test_bounds_hold_for_structs_built_in_python_too() -> None:
    with pytest.raises(ConfigError, match=r"\[raft\] tick_ms = 0 does not fit"):
        NodeConfig(raft=RaftConfig(tick_ms=0))
    with pytest.raises(ConfigError, match=r"\[limits\] queries = -1 does not fit"):
        NodeConfig(limits=Limits(queries=-1))
    with pytest.raises(ConfigError, match="cluster"):
        NodeConfig(cluster="")


# --- members and the cluster's id ------------------------------------------------------------------------------------


def test_a_cluster_begins_in_one_way() -> None:
    ways: dict[str, Any] = {
        "alone": True,
        "members": (MemberConfig("n1", "a:1"),),
        "bootstrap": True,
        "join_addresses": ("b:1",),
    }
    for one, other in combinations(ways, 2):
        if (one, other) == ("bootstrap", "join_addresses"):
            continue  # it founds a cluster if there is none at these addresses
        with pytest.raises(ConfigError, match="Keep one"):
            NodeConfig(name="n1", **{one: ways[one], other: ways[other]})
    assert [NodeConfig(name="n1", **{one: ways[one]}).has_peers() for one in ways] == [False, False, True, True]


def test_a_node_alone_is_its_own_member_and_may_change_its_address() -> None:
    one = NodeConfig(name="solo", peer_listen="127.0.0.1:1", client_listen="127.0.0.1:2")
    two = NodeConfig(name="solo", peer_listen="127.0.0.1:3", client_listen="127.0.0.1:4")
    assert one.member_list() == (MemberConfig("solo", "127.0.0.1:1", "127.0.0.1:2"),) == (one.own_member(),)
    assert one.cluster_id() == two.cluster_id()


def test_the_clusters_id_depends_on_its_name_and_on_its_members() -> None:
    def identity(cluster: str = "c", name: str = "n2", peer: str = "b:1", client: str = "b:2") -> str:
        members = (MemberConfig("n1", "a:1"), MemberConfig(name, peer, client))
        return NodeConfig(name="n1", cluster=cluster, members=members).cluster_id()

    assert re.fullmatch("[0-9a-f]{16}", identity())
    assert identity() == identity(client="other:2") == "a7314a27e65e298d"
    assert len({identity(), identity(cluster="d"), identity(name="n3"), identity(peer="b:9")}) == 4


@pytest.mark.parametrize(
    ("listen", "advertised"),
    [("10.0.0.1:8300", "10.0.0.1:8300"), (":8300", "n1:8300"), ("0.0.0.0:8300", "n1:8300"), ("[::]:8300", "n1:8300")],
)
def test_who_listens_everywhere_is_reached_by_name(listen: str, advertised: str) -> None:
    assert NodeConfig(name="n1", peer_listen=listen, client_listen=listen).advertised_peer() == advertised
    assert NodeConfig(name="n1", peer_listen=listen, client_listen=listen).advertised_client() == advertised
    assert NodeConfig(name="n1", peer_listen=listen, peer_advertise="x:1").advertised_peer() == "x:1"


# --- where it is safe to listen --------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1", "a-name", "node/1"])
def test_loopback_is_safe_without_anything(address: str) -> None:
    assert is_loopback(address)
    check_listen(address, secure=False, insecure=False)


@pytest.mark.parametrize("address", [":1", "0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "10.0.0.1", "", "::1"])
def test_listening_wider_needs_a_secure_transport_or_insistence(address: str) -> None:
    with pytest.raises(UnsafeListen, match=r'transport = "tls".*--insecure \(DISHEAP_INSECURE=1\)'):
        check_listen(address, secure=False, insecure=False)
    check_listen(address, secure=True, insecure=False)
    check_listen(address, secure=False, insecure=True)
