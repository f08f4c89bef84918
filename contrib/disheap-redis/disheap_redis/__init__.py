"""Storage `redis`: the log, the hard state and the snapshots of a node in a Redis.

Owns the keys below its prefix. The node calls it on its disk thread. It does not know what an entry says. Start reading
at `storage.py`; `records.py` has the format.
"""

__version__ = "0.1.0"
