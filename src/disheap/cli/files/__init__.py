"""`export` and `import`: messages of a topic as lines of JSON.

`lines` has the format: one message is one line, and back. `exporting` and `importing` are the verbs. `disheap.cli.main`
calls them. They know the blocking client, and nothing of nodes. Start reading at `lines`.
"""
