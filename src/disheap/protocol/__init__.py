"""The bytes on the wire, without I/O: what is packed, what is parsed, and what is refused.

`frames` has the frame that every connection starts with. `peers`, `repair`, `gossip` and `proofs` have what nodes say
to each other. `broker` has the commands, replies and queries of the heap machine. It does not know who sends a message.
The runtime, clients and machines call it. Start reading at `frames`.
"""
