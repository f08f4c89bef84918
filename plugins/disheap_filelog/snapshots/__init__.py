"""Snapshots: the format of one file, and the files that a directory holds.

`storage` uses it, and the log for what a snapshot stands for. It refuses to know what a snapshot says. Start reading at
`snapshot_files`.
"""
