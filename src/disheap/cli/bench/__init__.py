"""`disheap bench`: throughput and latency on this machine.

`command` is the verb, `native` and `with_kombu` the workloads, `figures` the medians and the table.
"""
