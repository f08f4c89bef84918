"""The whole product in one process, from one seed: virtual time, a simulated network, simulated disks, real everything
else.

`run.simulate(seed)` builds a cluster of real nodes (kernel, runtime, sessions, heap machine, file storage, server) and
real clients. Faults happen to them. Then everything is healed, and progress is required. The folders form layers:
`faults` upon `clients`, `cluster`, `checks` and `world`. Tests and `disheap.testing.simulate` call it. It uses no real
clock, socket or file. Start reading at `run`.
"""
