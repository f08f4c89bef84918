"""The service `grpc`: topics, consumers and the status of a disheap cluster over gRPC.

Owns the gRPC port of a node and the translation between `disheap.v1` and the cluster's own commands. A node builds it
as a plugin of kind `service`. It reaches the cluster as a client does, so every node serves, also one that does not
lead. Start reading at `service.py`; `v1/broker.proto` is the contract with clients.
"""

__version__ = "0.1.0"
