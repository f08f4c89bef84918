"""The state machine `heap`: topics, strict priorities, leases, credit, exchanges.

`machine` decodes a command and calls its handler. The handlers are in `commands`, `delivery` and `transactions`, and
`work` does what is due or was postponed. `state` is what all replicas share, `tables` the containers that it is made
of. `snapshots` writes a state and builds one. A group of a node calls the machine. The package does no I/O and reads
no clock. It does not know the log, connections or nodes. Start reading at `machine`.
"""
