"""Nodes on this machine: one in this process, or a cluster of child processes for as long as a command runs.

The verbs `serve`, `dev`, `demo` and `bench` use it, and the tests. It knows the runtime, signals and the service
manager, and refuses to know what a command prints. Start reading at `hosting`.
"""
