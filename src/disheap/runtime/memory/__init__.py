"""The memory of this process: how much it may take, how much it takes, and what is refused when it is short.

`process` asks the operating system; `watch` decides. `runtime.member` ticks the watch and passes on what it decides. It
does not know the machine's state, only its estimated size. Start reading at `watch.MemoryWatch`.
"""
