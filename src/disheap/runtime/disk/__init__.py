"""The thread that storage runs on, and the watch over free space.

`runtime.replica` gives it jobs. It does not know what a job does. Start reading at `thread`.
"""
