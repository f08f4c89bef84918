"""The replicated state around the state machine, and its bytes in a snapshot.

Owns client sessions and the rule that each command is applied once. `runtime.replica` calls it with committed entries.
It does not know the log, the kernel or sockets. Start reading at `sessions.Sessions`.
"""
