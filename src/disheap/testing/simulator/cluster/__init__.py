"""Real nodes on simulated machines, and everything that can be done to them.

Owns the hosts with their files, the processes on them, their settings and releases, and which of them may end by
itself. Leaders are asked for reads here, too (`probes`). `clients`, `faults`, `run` and tests call it. It knows no
client, and not why a node is killed. Start reading at `cluster`, then `nodes`.
"""
