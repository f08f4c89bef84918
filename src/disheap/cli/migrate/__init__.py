"""`disheap migrate`: waiting messages move from another broker.

Start reading at `moving`. `waiting` is one message, `sources` and `redis_source` take them from a broker that kombu
speaks to, and `command` is the command line.
"""
