"""Connections between nodes: who is dialled, who is let in, and what a slow peer costs.

`runtime.member` gives messages to send and takes what arrives. It does not know what a Raft message means. Start
reading at `peering`.
"""
