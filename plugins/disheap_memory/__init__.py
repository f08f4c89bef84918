"""Plugins without I/O: the transport `inproc` and the storage `memory`.

`inproc` joins nodes and clients of one process, `storage` keeps a log in memory and forgets it with the process.
`disheap dev` and tests use them. They know no file and no socket. Start reading at `hooks`.
"""
