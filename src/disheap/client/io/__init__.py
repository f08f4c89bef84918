"""The two drivers: they wait, move bytes, and ask `core` what the bytes mean.

Owns sockets, timers and forks. It does not know topics. Start reading at `asyncio_driver` or `blocking_driver`.
"""
