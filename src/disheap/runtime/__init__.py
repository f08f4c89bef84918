"""The runtime: a kernel, a storage and a state machine become a node that serves clients."""
