"""The memory of this process: how much it may take, how much it takes, and what is refused when it is short.

`process` asks the operating system; `watch` decides. Start reading at `watch.MemoryWatch`.
"""
