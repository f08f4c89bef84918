"""Real processes under real faults: `python -m tests.chaos --minutes 5 --nodes 3`.

Nodes are processes on loopback. Between them, and between them and their clients, stands a proxy of the test's own, so
that a line can be cut, slowed or garbled without any power over the machine. What clients saw is recorded and judged
afterwards by `history`, which knows nothing of faults.
"""
