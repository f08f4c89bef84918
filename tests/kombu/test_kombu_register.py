"""How kombu learns of `disheap://`."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from kombu.exceptions import SerializerNotInstalled
from kombu.transport import TRANSPORT_ALIASES

from disheap_kombu import register
from kombu import serialization


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_entry_point_is_in_the_group_that_kombu_loads():
    (entry,) = entry_points(group="kombu.serializers", name="disheap")
    assert entry.value == "disheap_kombu.register:entry"
    assert len(entry.load()) == 4


def test_a_producer_or_consumer_needs_no_import_of_disheap():
    assert (
        run("from kombu import Connection, Producer\nprint(type(Connection('disheap://h1,h2').transport).__module__)\n")
        == "disheap_kombu.transport"
    )


@pytest.mark.parametrize(
    "program",
    [
        "import disheap, kombu",
        "import kombu.transport, disheap",
        "import kombu, disheap",
        "import disheap, kombu.transport.base",
    ],
)
def test_importing_disheap_is_enough_in_either_order(program):
    assert (
        run(
            f"{program}\nimport kombu.connection, sys\n"
            "kombu.Connection('disheap://h').transport\n"
            "print([f for f in sys.meta_path if type(f).__module__ == 'disheap.announce'])"
        )
        == "[]"
    )


def test_importing_disheap_imports_no_kombu():
    assert run("import disheap, sys; print('kombu' in sys.modules, 'celery' in sys.modules)") == "False False"


def test_a_process_with_kombu_alone_never_imports_celery():
    assert (
        run(
            "import sys\nfrom kombu import Connection, Producer\nConnection('disheap://').transport\n"
            "print('celery' in sys.modules)"
        )
        == "False"
    )


def test_registering_twice_keeps_what_is_there():
    before = dict(TRANSPORT_ALIASES)
    assert register.register()
    assert before == TRANSPORT_ALIASES


def test_registering_never_raises(monkeypatch):
    monkeypatch.setitem(sys.modules, "kombu.transport", None)  # an import of it fails
    assert register.register() is False


def test_the_serializer_left_behind_refuses_clearly():
    with pytest.raises(SerializerNotInstalled, match="is a transport, not a serializer"):
        serialization.dumps({}, "disheap")


def test_mingle_and_gossip_are_told_when_celery_has_loaded_them():
    assert (
        run(
            "import celery.worker.consumer.mingle as m, celery.worker.consumer.gossip as g\n"
            "from celery import Celery\n"
            "app = Celery(broker='disheap://h')\n"
            "print(m.Mingle.compatible_transport(m.Mingle.__new__(m.Mingle), app),"
            " g.Gossip.compatible_transport(g.Gossip.__new__(g.Gossip), app))"
        )
        == "True True"
    )
