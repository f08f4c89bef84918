"""Who the members are, and whether this node may take part.

Owns the records of members and the check of their incarnations. `runtime.member` and `runtime.peers` ask it. It opens
no connection. Start reading at `directory`.
"""
