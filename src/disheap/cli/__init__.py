"""The command line: one small file for each family of verbs.

`main` has the table of commands and turns an error into a line and an exit code. The files of verbs use `asking` and
`terminal`; `processes` runs nodes. It knows clients, the runtime and people. Nobody imports it. Start reading at
`main`.
"""
