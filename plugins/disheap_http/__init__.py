"""The service `http`: health, status, statistics and metrics of one node over HTTP.

Owns the HTTP listeners of a node and what is answered there. A node builds it as a plugin of kind `service`. It knows
its node by `disheap.interfaces.ServiceContext` alone. Start reading at `service.py`.
"""
