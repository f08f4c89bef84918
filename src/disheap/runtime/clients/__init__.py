"""Client connections, the sessions attached to them, and the limits of both.

Owns frames from clients and answers to them. It hands commands to `runtime.replica` as opaque bytes. Start reading at
`server.Server`, then `connection`.
"""
