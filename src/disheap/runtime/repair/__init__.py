"""Damage of the log or of a snapshot: how it is found, and how it is mended from the other members.

`scrubber` finds damage, `plan` decides on one next step, `repairer` takes it, and `responder` answers the repairers of
other nodes. It never guesses: what no other member holds stays as it is. Start reading at `plan.decide`.
"""
