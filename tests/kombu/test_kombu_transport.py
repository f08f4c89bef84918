"""URLs, error classes and promises of the transport."""

from __future__ import annotations

import pickle

import pytest
from amqp.exceptions import ChannelError, RecoverableChannelError, RecoverableConnectionError
from kombu.exceptions import OperationalError

from disheap import errors
from disheap_kombu import failures, node_address
from disheap_kombu.options import broker_url, priority_sign
from disheap_kombu.transport import Transport
from kombu import Connection


@pytest.mark.parametrize(
    ("arguments", "url"),
    [
        ({"hostname": "disheap://"}, "disheap://"),
        ({"hostname": "disheap://h1:8400,h2:8401,h3/"}, "disheap://h1:8400,h2:8401,h3/"),
        ({"hostname": "disheap://h1;disheap://h2,h3"}, "disheap://h1;disheap://h2,h3"),
        ({"hostname": ["disheap://h1", "disheap://h2"]}, "disheap://h1;disheap://h2"),
        ({"hostname": "disheap://h1", "alternates": ["disheap://h4"]}, "disheap://h1;disheap://h4"),
        ({"hostname": "h1", "transport": "disheap"}, "disheap://h1"),
        ({"hostname": "h1", "port": 9000, "transport": "disheaps"}, "disheaps://h1:9000"),
        (
            {"hostname": "disheap://h1?cafile=a&certfile=b&keyfile=c;disheap://h2", "ssl": True},
            "disheaps://h1?cafile=a&certfile=b&keyfile=c;disheaps://h2",
        ),
        (
            {"hostname": "disheaps://h1?certfile=me&keyfile=k", "ssl": {"ca_certs": "/x y/ca.pem", "cert_reqs": 2}},
            "disheaps://h1?certfile=me&keyfile=k&cafile=%2Fx%20y%2Fca.pem",
        ),
        (
            {
                "hostname": "disheap://h1",
                "ssl": {
                    "ssl_ca_certs": "a",
                    "ssl_certfile": "b",
                    "ssl_keyfile": "c",
                    "ssl_cert_reqs": "required",
                    "ssl_check_hostname": True,
                },
            },
            "disheaps://h1?cafile=a&certfile=b&keyfile=c",
        ),
        (
            {"hostname": "disheap://h1,h2;disheap://h3", "transport_options": {"session_timeout_ms": 1000}},
            "disheap://h1,h2?session_timeout_ms=1000;disheap://h3",
        ),
        (
            {
                "hostname": "disheap://h1?timeout_s=3",
                "transport_options": {"timeout_s": 5, "label": "a b", "transport.nodelay": True, "max_retries": 3},
            },
            "disheap://h1?timeout_s=3&label=a%20b&transport.nodelay=true",
        ),
    ],
)
def test_the_clients_url_is_the_whole_of_what_kombu_was_given(arguments, url):
    owner = Connection(**arguments)
    assert broker_url(owner, owner.transport.scheme) == url


@pytest.mark.parametrize(
    ("ssl", "message"),
    [
        (True, r"ca_certs, certfile, keyfile are missing.*\{\"ca_certs\""),
        ({"ca_certs": "a", "certfile": "b"}, "keyfile is missing"),
        ({"ssl_ca_certs": "a", "ssl_cert_reqs": 0}, "ssl_cert_reqs = 0 is not possible: .* both ends always prove"),
        ({"cert_reqs": "optional"}, "cert_reqs = 'optional' is not possible"),
        ({"ssl_check_hostname": False}, "the name in a node's certificate is always checked"),
        ({"ca_cert": "a"}, "'ca_cert' is not known. Did you mean 'ca_certs'"),
    ],
)
def test_an_invalid_broker_use_ssl_raises_an_error_that_names_the_fault(ssl, message):
    owner = Connection("disheap://h1", ssl=ssl)
    with pytest.raises(errors.ConfigError, match=message):
        broker_url(owner, "disheap")


@pytest.mark.parametrize("given", [{"userid": "me"}, {"password": "s3cret"}, {"userid": "me", "password": "p /@:"}])
def test_a_user_name_and_a_password_are_refused_and_not_shown(given):
    owner = Connection("disheap://h1", **given)
    with pytest.raises(errors.ConfigError, match="no user names and passwords") as caught:
        broker_url(owner, "disheap")
    assert not any(value in str(caught.value).split() for value in given.values())


def test_tls_versions_and_ciphers_have_no_effect_and_warn():
    owner = Connection("disheaps://h1?cafile=a&certfile=b&keyfile=c", ssl={"ssl_version": 2})
    with pytest.warns(UserWarning, match="'ssl_version' has no effect"):
        assert broker_url(owner, "disheaps") == "disheaps://h1?cafile=a&certfile=b&keyfile=c"


def test_an_unknown_transport_option_warns_and_names_the_nearest():
    owner = Connection("disheap://h1", transport_options={"session_timeout": 1000})
    with pytest.warns(
        UserWarning, match="'session_timeout' has no effect with disheap; did you mean 'session_timeout_"
    ):
        assert broker_url(owner, "disheap") == "disheap://h1"


def test_a_transport_option_out_of_its_bounds_is_refused():
    with pytest.raises(errors.UrlError, match="session_timeout_ms='5' must be from 100"):
        Connection("disheap://h1", transport_options={"session_timeout_ms": 5}).connect()


def test_copies_of_a_connection_keep_the_url():
    owner = Connection("disheap://h1,h2;disheap://h3?label=x")
    for copy in (owner.clone(), pickle.loads(pickle.dumps(owner))):
        assert broker_url(copy, "disheap") == "disheap://h1,h2;disheap://h3?label=x"


def test_no_uri_shows_a_password():
    owner = Connection("disheap://me:secret@h1,h2:9")
    assert "secret" not in owner.as_uri() + repr(owner)
    assert "h1,h2:9" in owner.as_uri()
    assert "secret" in owner.as_uri(include_password=True)


class InUse:
    """A connection to a node."""

    class driver:
        address = "h3:8402"


@pytest.mark.parametrize(
    ("url", "port"), [("disheap://h1", 8400), ("disheap://h1:9;disheap://h2:10", 9), ("disheaps://h1:9,h2:10", 9)]
)
def test_the_port_is_the_first_urls(url, port):
    owner = Connection(url)
    assert owner.port == owner.info()["port"] == port
    assert owner.clone().port == port


def test_a_connection_that_has_switched_shows_the_node_in_use():
    owner = Connection("disheap://h1:9?label=/me;disheap://h3:8402")
    owner._connection = InUse()
    assert owner.port == owner.info()["port"] == 8402
    assert owner.as_uri() == "disheap://h3:8402?label=/me"


def test_a_closed_connection_keeps_its_port_until_it_gets_another_url():
    owner = Connection("disheap://h1:9;disheap://h3:8402")
    node_address.note_node(owner, "h3:8402")
    assert owner.port == 8402
    owner.switch("disheap://h4:7")
    assert owner.port == 7


def test_a_node_of_the_first_url_changes_no_port_for_pools_are_keyed_by_it():
    owner = Connection("disheap://h1:9,h3:8402")
    before = owner.__eqhash__()
    owner._connection = InUse()
    assert owner.port == 9 and owner.__eqhash__() == before
    assert owner.as_uri() == "disheap://h3:8402"


def test_a_port_that_was_given_and_those_of_other_transports_stay():
    assert Connection("h1", transport="disheap", port=9).port == 9
    assert Connection("amqp://h1:5673").port == 5673
    assert Connection("memory://").port is None


def test_before_it_is_connected_every_alternate_is_named():
    assert Connection("disheap://h1:9;disheap://h2:10").as_uri() == "disheap://h1:9;disheap://h2:10"


def test_a_dead_address_is_a_connection_error_that_may_be_retried():
    owner = Connection("disheap://127.0.0.1:1", connect_timeout=0.2)
    with pytest.raises(owner.recoverable_connection_errors) as raised:
        owner.connect()
    assert isinstance(raised.value, OSError), "as with other transports"
    assert "127.0.0.1:1" in str(raised.value)


def test_an_unreadable_url_is_not_retried():
    with pytest.raises(errors.UrlError):
        Connection("disheap://h1:port", connect_timeout=0.2).connect()


def test_the_transport_implements_what_celery_needs():
    assert Transport.implements.asynchronous and Transport.implements.heartbeats and Transport.implements.batch_publish
    assert Transport.implements.exchange_type == {"direct", "topic", "fanout", "headers"}
    transport = Connection("disheap://").transport
    assert (transport.driver_type, transport.driver_name) == ("disheap", "disheap")
    assert transport.driver_version().count(".") == 2
    assert transport.qos_semantics_matches_spec(None) is False


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TopicNotFound("x"), 404),
        (errors.ExchangeNotFound("x"), 404),
        (errors.TopicLocked("x"), 405),
        (errors.TopicMismatch("x"), 406),
        (errors.ExchangeMismatch("x"), 406),
        (errors.TopicInUse("x"), 406),
        (errors.PayloadTooLarge("x"), 406),
        (errors.TopicFull("x"), 311),
        (errors.DiskFull("x"), 506),
        (errors.MemoryFull("x"), 506),
    ],
)
def test_refusals_are_channel_errors_with_amqps_numbers(error, code):
    translated = failures.translated(error)
    assert isinstance(translated, ChannelError)
    assert isinstance(translated, RecoverableChannelError) == (code in (405, 506))
    assert (translated.code, translated.reply_code) == (code, code)


@pytest.mark.parametrize(
    "error",
    [errors.ConnectionLost("x"), errors.SessionExpired("x"), errors.OutcomeUnknown("x"), errors.Overloaded("x")],
)
def test_errors_that_a_new_connection_repairs_are_recoverable(error):
    assert isinstance(failures.translated(error), RecoverableConnectionError)


@pytest.mark.parametrize("error", [errors.OutcomeUnknown("x"), errors.RequestTimeout("x")])
def test_a_publish_of_unknown_outcome_is_recoverable_and_says_what_it_is(error):
    translated = failures.translated(error, publishing=True)
    assert isinstance(translated, OperationalError)
    assert isinstance(translated, errors.OutcomeUnknown)
    assert isinstance(translated, Transport.recoverable_connection_errors)


@pytest.mark.parametrize("error", [errors.OutcomeUnknown("x"), errors.DiskFull("x")])
def test_a_worker_starts_its_consumer_again_where_a_publish_failed(error):
    """Celery ends a worker with "Unrecoverable error" for whatever is none of these."""
    assert isinstance(failures.translated(error, publishing=True), Transport.connection_errors)


def test_an_order_of_priorities_that_is_not_known_is_refused():
    with pytest.raises(errors.ConfigError, match=r"'amqp' \(the larger number first.* not 'rabbit'"):
        priority_sign({"priority_order": "rabbit"})
    assert [priority_sign({"priority_order": order}) for order in (None, "amqp", "redis")] == [1, 1, -1]
