"""A node's settings: from a file, the environment and flags into frozen structs with bounds.

`node_config` says which settings there are, `sources` where they come from, `cluster_secret` reads the secret of the
members. `disheap.cli` and tests call it; it starts nothing. Start reading at `node_config.NodeConfig`.
"""

from disheap.config.node_config import NodeConfig as NodeConfig
from disheap.config.node_config import load as load

__all__ = ["NodeConfig", "load"]
