"""Publishes that are gathered for a command that does more than to publish."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from disheap.protocol import broker
from disheap_kombu.connection import Connection
from disheap_kombu.namespaces import Namespace
from kombu import Producer


@pytest.fixture
def producer(channel):
    return Producer(channel)


def publishes(driver):
    return driver.commands_of(broker.Publish)


def test_what_is_published_in_the_block_is_gathered_and_not_sent(channel, driver, producer):
    with channel.gather() as commands:
        producer.publish({"a": 1}, routing_key="q", priority=3)
        producer.publish({"a": 2}, routing_key="q", delivery_mode=1)
    assert [(one.routing_key, one.message.priority) for one in commands] == [("q", 3), ("q", 0)]
    assert publishes(driver) == []
    producer.publish({"a": 3}, routing_key="q")
    assert len(publishes(driver)) == 1
    assert len(commands) == 2


def test_an_error_in_the_block_ends_the_gathering(channel, driver, producer):
    with pytest.raises(ValueError), channel.gather():
        raise ValueError
    producer.publish({"a": 3}, routing_key="q")
    assert len(publishes(driver)) == 1


def test_a_channel_names_its_cluster_and_its_group(channel, driver):
    driver.welcome = None
    assert channel.cluster == ("", driver.url.group)


def test_what_is_gathered_has_the_names_of_the_virtual_host(driver):
    connection = Connection(driver, SimpleNamespace(declared_entities=set()), namespace=Namespace("shop"))
    channel = connection.channel()
    with channel.gather() as commands:
        Producer(channel).publish({"a": 1}, routing_key="q")
    assert commands[0].routing_key == "shop/q"
    connection.close()
