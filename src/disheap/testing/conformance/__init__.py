"""What every plugin of a kind has to do, one module of tests for each contract.

    pytest --pyargs disheap.testing.conformance --disheap-transport mine --disheap-set transport.mine.key=value

The fixtures are those of `disheap.testing.fixtures`. pytest loads them for a command line like this one. Nothing else
is needed: tests that wait run their own event loop. Authors of plugins and this project's own tests run it. It knows
the contracts, and no plugin. Start reading at the module of your kind.
"""
