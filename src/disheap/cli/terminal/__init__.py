"""What people type and read: options, tables and JSON, bars, errors, and the log of a node.

The verbs and `main` use it. It refuses to know clients, nodes and files of data. Start reading at `output`.
"""
