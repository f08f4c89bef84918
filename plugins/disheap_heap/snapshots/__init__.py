"""A state as bytes: a snapshot is written, a state is built from one, and a replaced state is freed.

Owns the format of snapshots and the hash of the state. `machine` calls it. It reads a view of `state`, and so the
machine continues while a snapshot is written. It does not know files, and not how a snapshot gets to another node.
Start reading at `snapshot`.
"""
