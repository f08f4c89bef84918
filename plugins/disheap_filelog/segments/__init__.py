"""The log: segments of blocks, the index of what is where, and what a crash leaves of them.

`storage` uses it. It refuses to know snapshots' contents, terms and votes. Start reading at `log_files`, then `segment`
and `blocks`.
"""
