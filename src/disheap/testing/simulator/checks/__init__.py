"""What must hold of kernels, their disks and their messages, and of all that clients see.

Owns Raft's rules (`safety`), what came over the wire of a client (`history`), and the sequential reference that it is
compared with (`replay`). `cluster` tells it of each step, `clients` ask it for the last judgement, and tests call it.
It knows no host and no client, and makes nothing happen. Start reading at `safety`, then `replay`.
"""
