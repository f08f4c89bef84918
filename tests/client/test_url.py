"""Broker URLs: what is read, what is refused, and what is never said aloud."""

from __future__ import annotations

import pytest

from disheap.client.core.url import BrokerUrl, hello_of, parse, redact, without_path
from disheap.errors import UrlError


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("disheap://", ("localhost:8400",)),
        ("disheap:///", ("localhost:8400",)),
        ("disheap:////", ("localhost:8400",)),
        ("disheap://h1", ("h1:8400",)),
        ("disheap://h1:1,h2,h3:65535/", ("h1:1", "h2:8400", "h3:65535")),
        ("disheap://[::1],[fe80::1]:9", ("[::1]:8400", "[fe80::1]:9")),
        ("disheap://h1;disheap://h2:1;", ("h1:8400", "h2:1")),
        ("disheap://h1,h1:8400", ("h1:8400",)),
        ("disheap://h1,disheap://h2:1, disheap://h3", ("h1:8400", "h2:1", "h3:8400")),
        ("disheap://[fe80::1%25eth0],[fe80::2%eth0.7]:9", ("[fe80::1%eth0]:8400", "[fe80::2%eth0.7]:9")),
    ],
)
def test_hosts_get_the_default_port_and_come_once_each(text: str, addresses: tuple[str, ...]) -> None:
    assert parse(text).addresses == addresses


def test_disheaps_is_tls_with_its_files() -> None:
    url = parse("disheaps://h?cafile=/ca.pem&certfile=/c.pem&keyfile=/k.pem&server_name=x")
    assert url.transport == "tls"
    assert url.transport_table == {
        "cafile": "/ca.pem",
        "certfile": "/c.pem",
        "keyfile": "/k.pem",
        "server_name": "x",
    }


def test_parameters_set_the_clients_times() -> None:
    url = parse("disheap://h?session_timeout_ms=2000&connect_timeout_s=0.5&timeout_s=7&label=me&transport=inproc")
    assert url == BrokerUrl(("h:8400",), "inproc", 2000, 0.5, 7.0, "me", {})


def test_parameters_say_what_the_first_frame_asks_for() -> None:
    hello = hello_of(parse("disheap://h?group=3&mechanism=external"), "me")
    assert (hello.group, hello.mechanism, hello.client) == (3, "external", "me")
    assert hello_of(parse("disheap://h"), "me").mechanism == "anonymous"
    with pytest.raises(UrlError, match="group='-1' must be from 0 to"):
        parse("disheap://h?group=-1")


def test_a_strangers_transport_gets_its_settings_by_prefix() -> None:
    assert parse("disheap://h?transport=mine&transport.mtu=9").transport_table == {"mtu": "9"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty broker URL"),
        ("redis://h", "redis://h"),
        ("h1:8400", "starts with disheap://"),
        ("disheap://h:x", "'x' is not a port"),
        ("disheap://h:0", "'0' is not a port"),
        ("disheap://h:", "'' is not a port"),
        ("disheap://h:70000", "'70000' is not a port"),
        ("disheap://a b", "'a b' is not a host"),
        ("disheap://h1,,h2", "'' is not a host"),
        ("disheap://::1", "is not a host"),
        ("disheap://[::1]x", "is not a host"),
        ("disheap://[fe80::1%]", "is not a host"),
        ("disheap://h/tasks", "leave out /tasks"),
        ("disheap://h?sesion_timeout_ms=1", "unknown parameter 'sesion_timeout_ms'"),
        ("disheap://h?session_timeout_ms=soon", "session_timeout_ms='soon' is not a whole number of milliseconds"),
        ("disheap://h?session_timeout_ms=0.5", "session_timeout_ms='0.5' is not a whole number of milliseconds"),
        ("disheap://h?timeout_s=soon", "timeout_s='soon' is not a number of seconds"),
        ("disheap://h?session_timeout_ms=1", "session_timeout_ms='1' must be from 100 to 86400000"),
        ("disheap://h?timeout_s=nan", "must be from"),
        ("disheap://h;disheaps://h", "different transports"),
        ("disheap://" + ",".join(f"h{n}" for n in range(65)), "65 hosts"),
    ],
)
def test_an_error_names_the_part_that_is_wrong(text: str, part: str) -> None:
    with pytest.raises(UrlError) as caught:
        parse(text)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "disheap://user:s3cret@h1,h2",
        "disheap://s3cret@h",
        "amqp://u:s3cret@h//",
        "disheap://u:s3cret@h/x?y=z",
        "disheap://u:s3cret/@h",
        "disheap://u:s3cret?@h",
        "disheap://u:x@y/s3cret@h/v",
        "disheap://u:x;s3cret@h",
        "disheap://u:x@s3cret@h",
        "disheap://h1;disheap://u:s3cret@h2:x",
    ],
)
def test_no_error_and_no_redacted_url_holds_a_password(text: str) -> None:
    for read in (parse, without_path):
        with pytest.raises(UrlError, match="no user names and passwords") as caught:
            read(text)
        assert "s3cret" not in str(caught.value)
    assert "s3cret" not in redact(text)


def test_redacting_leaves_a_harmless_url_as_it_is() -> None:
    assert redact("disheap://h1:1,h2?label=me%40home") == "disheap://h1:1,h2?label=me%40home"


def test_an_at_sign_in_a_parameter_is_percent_encoded() -> None:
    assert parse("disheap://h?label=me%40home").label == "me@home"
