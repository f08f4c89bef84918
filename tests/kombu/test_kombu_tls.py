"""kombu over mutual TLS, against a real node."""

from __future__ import annotations

import socket

import pytest
import trustme
from kombu_cluster import NodeProcess

from disheap.errors import ConfigError
from kombu import Connection, Consumer, Producer, Queue


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    directory = tmp_path_factory.mktemp("secured")
    files = directory / "tls"
    files.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(files / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    (files / "key.pem").touch(mode=0o600)
    certificate.private_key_pem.write_to_path(files / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(files / "cert.pem")
    node = NodeProcess(directory)
    yield node, files
    node.kill()


@pytest.fixture
def connection(secured):
    node, files = secured
    url = f"disheaps://{node.address}?cafile={files}/ca.pem&certfile={files}/cert.pem&keyfile={files}/key.pem"
    with Connection(url) as connection:
        yield connection


def test_messages_larger_than_a_tls_record_and_many_at_once_arrive(connection):
    """A record may hold several deliveries, and a delivery several records: the socket's readiness tells of neither."""
    queue = Queue("over-tls")(connection.default_channel)
    queue.declare()
    sizes = [100_000, *([10] * 300), 70_000]
    for number, size in enumerate(sizes):
        Producer(connection).publish([number, "x" * size], routing_key="over-tls")
    got = []

    def on_message(message):
        got.append(message.payload)
        message.ack()

    with Consumer(connection, [queue], on_message=on_message, prefetch_count=64):
        for _ in sizes:
            connection.drain_events(timeout=10)
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.1)
    assert [number for number, _ in got] == list(range(len(sizes)))
    assert [len(text) for _, text in got] == sizes


def test_celerys_words_for_the_files_are_understood(secured):
    node, files = secured
    words = {"ca_certs": files / "ca.pem", "certfile": files / "cert.pem", "keyfile": files / "key.pem"}
    with Connection(f"disheap://{node.address}", ssl=words) as connection:
        assert connection.default_channel.queue_declare("words").queue == "words"


def test_a_client_without_a_certificate_is_refused(secured):
    node, files = secured
    stranger = Connection(f"disheaps://{node.address}?cafile={files}/ca.pem", connect_timeout=0.5)
    with pytest.raises(ConfigError, match="certfile"):
        stranger.connect()
