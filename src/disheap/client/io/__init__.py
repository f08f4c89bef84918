"""The two drivers: they wait, move bytes, and ask `core` what the bytes mean.

Owns sockets, timers and forks. `client.api`, the command line and the kombu plugin call it. It does not know topics.
Start reading at `asyncio_driver` or `blocking_driver`.
"""
