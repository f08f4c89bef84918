"""What tests of disheap and of plugins share: conformance suites, the simulator, the model, fixtures.

Only tests import it. `conformance` is for authors of plugins, `simulator` runs whole clusters from one seed,
`heap_model` describes with plain lists what the heap machine must do. Start reading at `simulator.run`.
"""
