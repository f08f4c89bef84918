"""`disheap bench`: throughput and latency on this machine.

`command` is the verb, `native` and `with_kombu` the workloads, `figures` the medians and the table. `disheap.cli.main`
calls it. It measures as a client does, and knows nothing inside a node. Start reading at `command`.
"""
