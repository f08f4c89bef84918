"""Several changes, all or nothing: batches in one command, and two-phase commit over groups.

Owns what is prepared, what is decided, and what the groups say to each other about it. `machine` calls a handler for
each command, and `work` calls the folder when a deadline has passed. The records are in `state.prepared`. Messages for
other groups wait in `state.outbox`, and the folder does not know who carries them. Start reading at `transactions`.
"""
