"""The runtime turns a kernel, a storage and a state machine into a node that serves clients.

`node.py` is the public face, and `member.py` wires one process and ticks it. Below them lie folders in layers:
`clients`, `peers`, `membership` and `repair` use `replica`; `replica` uses `state`; `disk`, `memory` and `clocks` know
none of them. `offline` works on data directories while no node runs. `disheap.Node` and the command line call it. The
runtime never imports a plugin. It does not know the broker's vocabulary. Start reading at `member.Member` and
`replica.group.Group`.
"""
