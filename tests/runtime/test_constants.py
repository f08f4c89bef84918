"""Constants that decide replicated behaviour: nodes that differ in one refuse each other."""

from __future__ import annotations

import pytest
from tests.support.constants import int_constants

from disheap.config.node_config import NodeConfig
from disheap.runtime import tuning
from disheap.runtime.state import session_table, sessions
from disheap_heap.settings import HeapSettings

DECIDES_NOTHING = {"COMMANDS_AT_ONCE", "DETACHED_AT_ONCE", "SESSION_BYTES"}
"""They decide when the loop has its turn, or estimate memory, and nothing that a replica does."""


def test_every_constant_of_the_session_layer_is_in_the_digest_or_decides_nothing() -> None:
    constants = int_constants(sessions, session_table)
    assert {name: value for name, value in constants.items() if name not in DECIDES_NOTHING} == sessions.DECIDES_REPLIES
    assert constants.keys() >= DECIDES_NOTHING


@pytest.mark.parametrize("name", sessions.DECIDES_REPLIES)
def test_nodes_with_another_constant_have_another_digest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = NodeConfig(name="n1", alone=True)
    before = tuning.shared_settings_digest(config, HeapSettings())
    monkeypatch.setitem(sessions.DECIDES_REPLIES, name, 1)
    assert tuning.shared_settings_digest(config, HeapSettings()) != before
