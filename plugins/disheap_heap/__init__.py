"""The state machine `heap`: topics, strict priorities, leases, credit, exchanges.

`machine` decodes a command and calls its handler. `state` is what all replicas share. `ready` decides which message is
next, and `turns` decides which consumer is next. `enqueue`, `delivery`, `leases`, `consumers`, `sessions` and
`exchanges` each have one concern. A group of a node calls the machine. The package does no I/O and reads no clock. It
does not know the log, connections or nodes. Start reading at `machine`.
"""
