"""Time: the clock of this node, the clocks of the other members, and the time that goes into the log.

Owns what log time is, and whether a wall clock may move it. A group and its node ask it. It does not know the kernel's
roles, sessions or connections. Start reading at `log_clock`.
"""
