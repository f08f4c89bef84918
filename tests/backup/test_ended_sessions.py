"""What becomes of sessions in a state that begins a new cluster."""

from __future__ import annotations

from disheap.interfaces import MachineContext, Principal
from disheap.protocol import broker
from disheap.protocol.broker import NewMessage
from disheap.runtime.state.reply_sink import ReplySink
from disheap.runtime.state.session_table import Session, SessionFacts, SessionLimits
from disheap.runtime.state.sessions import Sessions
from disheap_heap.machine import HeapMachine
from disheap_heap.settings import HeapSettings

NOW_MS = 1_700_000_000_000


def test_no_session_gets_what_another_one_gives_back() -> None:
    """Each of three consumers would take the message in turn, and its attempts would be used up."""
    machine = HeapMachine(HeapSettings(), MachineContext())
    state = Sessions(machine, SessionLimits(), ReplySink())
    for number in (1, 2, 3):
        session = state.table[number] = Session(SessionFacts(number, 1000, 1000, "", "", NOW_MS, bytes(32)))
        state.counts.opened(session)
        machine.session_opened(number, Principal())

    def do(command: broker.Command, session: int = 1) -> None:
        machine.apply(1, NOW_MS, session, broker.encode(command))

    do(broker.CreateTopic("jobs"))
    do(broker.Enqueue("jobs", NewMessage(b"x")))
    for number in (1, 2, 3):
        do(broker.Subscribe("jobs", 1), number)
    assert machine.stats()["leased"] == 1
    state.end_all(NOW_MS)
    assert not state.table and (machine.stats()["leased"], machine.stats()["ready"]) == (0, 1)
    (message,) = broker.decode_reply.decode(machine.query(NOW_MS, 0, broker.encode(broker.Peek("jobs")))).messages
    assert message.attempts == 1
