"""The clients of a group: what they do, what they were promised, and whether that was kept.

Owns the life of a client, what it does to each machine, batches over several groups, and the watch over sessions.
`judgement` compares it all with the log at the end. `run`, `faults` and tests call it. It makes no fault, and takes
what faults do to a client as an answer. Start reading at `client`, then `workload`.
"""
