"""The client side: one session without I/O, two drivers, and the words that applications use.

`core` knows the protocol and does no I/O. `io` waits and moves bytes, once with asyncio and once with blocking sockets.
`api` is what `disheap.connect` and `disheap.sync.connect` return. Imports run from `api` to `io` to `core`.
Applications, the command line and the kombu plugin use it. It knows no server part. Start reading at
`api.asynchronous`.
"""
