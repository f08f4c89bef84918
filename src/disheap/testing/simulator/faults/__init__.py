"""What goes wrong while a run lasts, and what operators do meanwhile.

Owns which faults a run draws, when they come and how each is undone. Changes of members, moves, upgrades and strangers
are here, too. `run` and tests call it. It knows no rule of Raft and no model of the heap: others judge what comes of a
fault. Start reading at `injector`, then `actions`.
"""
