"""Plugins that are subtly wrong, each in one way, and the test of the conformance suites that is meant for it.

Each module has one plugin that is right (`RIGHT`), and classes that break one rule of the contract. `MEANT` says for
each class which test of the suite has to fail. `test_wrong_plugins` runs the suites over all of them. Whoever adds a
rule to a contract adds a plugin that breaks it.
"""
