"""How plugins are declared, found and configured.

`hookspecs` has the hooks. `registry` finds a class for each kind and name, and `contract_check` refuses one that does
not fit. `settings` fills its settings, `chain` joins codecs. The runtime, clients and the command line ask it. It runs
no plugin. Authors import `hookimpl` from here. Start reading at `hookspecs`.
"""

from disheap.plugins.hookspecs import hookimpl as hookimpl

__all__ = ["hookimpl"]
