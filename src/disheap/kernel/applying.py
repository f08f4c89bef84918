"""What is committed goes to the machine, in order and once (Raft §5.3, Figure 2: lastApplied).

One batch is out at a time. Only what is durable here is handed out, so that no snapshot can hold more than the log.
"""

from __future__ import annotations

from disheap.errors import StorageError
from disheap.kernel.log import within
from disheap.kernel.state import State
from disheap.kernel.types import Entry, Fetch, Index


def next_batch(state: State) -> tuple[Entry, ...]:
    """The next entries to apply, or none; those that are not in memory are asked for."""
    log, first = state.log, Index(state.log.handed + 1)
    last = _last(state)
    if first > last or log.handed != log.applied or state.applying or state.is_installing:
        return ()
    if log.is_cached(first):
        return _hand_out(state, log.cached(first, last, state.config.apply_bytes))
    state.applying = first
    state.outbox.fetches.append(Fetch(state.id, first, min(last, Index(log.cache_first - 1)), state.config.apply_bytes))
    return ()


def on_fetched(state: State, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Entries that storage read for us; an answer from before a snapshot replaced the log is dropped."""
    first = state.applying
    if not first or (entries and entries[0].index != first):
        return ()
    state.applying = Index(0)
    if state.is_installing:
        return ()
    if not entries:
        raise StorageError(f"storage lost entry {first}, which is committed and not yet applied. Restart the node")
    return _hand_out(state, within(entries, state.config.apply_bytes, _last(state)))


def on_applied(state: State, index: Index) -> bool:
    """Returns whether something waited for that: more that is committed, or a snapshot that is to be installed."""
    log = state.log
    assert index <= log.handed, "applied what was not handed out"
    log.applied = max(log.applied, index)
    return log.applied < _last(state) or state.receiving is not None


def _last(state: State) -> Index:
    return min(state.log.commit, state.log.stable)


def _hand_out(state: State, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    state.log.handed = entries[-1].index
    return entries
