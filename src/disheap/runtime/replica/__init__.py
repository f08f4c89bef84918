"""One node's part of a group: the kernel, the log and the state, kept in step.

Owns what is proposed, written, applied and answered, and in which order. `runtime.hosted_replica` builds it. It does
not know sockets, clients or the machine's vocabulary. Start reading at `group.Group`.
"""
