"""Real processes under real faults: `python -m tests.chaos --minutes 5 --nodes 3`.

Nodes are processes on loopback. All their connections pass through proxies of the test's own. So a connection can be
cut, slowed or garbled without any rights on the machine. What clients saw is recorded. `history` judges it afterwards,
and knows nothing of faults.
"""
