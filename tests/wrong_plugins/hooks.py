"""The hooks of a distribution that has nothing but these plugins. `test_wrong_plugins` installs it for its runs."""

from __future__ import annotations

from typing import Any

from disheap.plugins import hookimpl
from tests.wrong_plugins.names import named


@hookimpl
def disheap_register_machine() -> list[type[Any]]:
    from tests.wrong_plugins import machines

    return named([machines.RIGHT, *machines.MEANT])


@hookimpl
def disheap_register_transport() -> list[type[Any]]:
    from tests.wrong_plugins import transports

    return named([transports.RIGHT, *transports.MEANT])


@hookimpl
def disheap_register_storage() -> list[type[Any]]:
    from tests.wrong_plugins import storages

    return named(storages.MEANT)  # the right one is the shipped one


@hookimpl
def disheap_register_codec() -> list[type[Any]]:
    from tests.wrong_plugins import codecs

    return named([codecs.RIGHT, *codecs.MEANT])


@hookimpl
def disheap_register_service() -> list[type[Any]]:
    from tests.wrong_plugins import services

    return named([services.RIGHT, *services.MEANT])
