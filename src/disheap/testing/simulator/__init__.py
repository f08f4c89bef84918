"""The whole product in one process, from one seed: virtual time, a simulated network, simulated disks, real everything
else.

`run.simulate(seed)` builds a cluster of real nodes (kernel, runtime, sessions, heap machine, file storage, server) and
real clients, lets faults happen to them, heals everything and requires progress. What is checked meanwhile is in
`safety` (the kernels and their disks), `history` (what clients saw) and `replay` (a plain model of the log).
"""
