"""The runtime turns a kernel, a storage and a state machine into a node that serves clients.

`node.py` is the face and owns the loop. Below it lie folders in layers: `clients`, `peers`, `membership` and `repair`
use `replica`; `replica` uses `state`; `disk` and `memory` know none of them. The runtime never imports a plugin. It
does not know the broker's vocabulary. Start reading at `node.Node` and `replica.group.Group`.
"""
