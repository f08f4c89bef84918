"""Raft as a pure function of its inputs: no sockets, files, clocks, threads or entropy.

How to drive it: create `raft.Raft` from what is on disk. Then, in one loop:

1. Give it what happened. `tick()`: an interval of the clock has passed. `step(message)`: a member's message came.
   `propose(kind, time_ms, data)`: an entry, on the leader. `read_index(context)`: a linearizable read.
2. Take `ready()` while `has_ready()`. A `Ready` lists what to write, what to send and what is committed.
3. Send `messages` at once. Make `write` durable, call `persisted(number)`, and then send `held`.
4. Give `committed` to the state machine, and call `applied_to(index)`.

The kernel imports the standard library and `disheap.errors` alone. The same inputs in the same order give the same
outputs, so a simulation repeats from its seed. Start reading at `raft`, then `election` and `replication`.

§ is a section of the Raft paper, or of Ongaro's dissertation where that is said. `pitfall 8` is row 8 of
docs/explanation/raft-pitfalls.md, `storage-rules 6` row 6 of docs/explanation/storage-rules.md.
"""
