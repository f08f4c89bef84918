"""The file of a backup: its bytes, who writes it and who reads it.

`layout` has the table of bytes. `writing` makes a file out of the snapshots of a cluster's groups. `reading` checks
every byte while it reads. Called by the command line, and by `runtime.offline`, which makes data directories. Does not
know nodes, directories and what a snapshot means. Start reading at `layout`.
"""
