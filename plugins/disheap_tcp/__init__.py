"""The transports `tcp` and `tls`.

`tcp` and `tls` are the plugins; `listener`, `connecting` and `link` are shared by both; `trust` and `options` read
certificates. Nodes and clients build them through the registry. They know bytes and sockets, and no frame. Start
reading at `hooks`, then `tcp`.
"""
