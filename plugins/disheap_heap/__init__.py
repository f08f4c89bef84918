"""The state machine `heap`: topics, strict priorities, leases, credit, exchanges.

`machine` decodes a command and calls its handler; `state` is what all replicas share; `enqueue`, `delivery`, `leases`,
`consumers` and `routing` each have one concern. It does no I/O, and its effects are output. Start reading at `machine`.
"""
