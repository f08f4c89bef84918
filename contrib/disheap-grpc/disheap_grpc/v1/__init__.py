"""Version 1 of the contract with clients: `broker.proto`, and what `generate.py` makes of it.

Owns messages and services, and no behaviour. The package above and clients in Python use it. Start reading at
`broker.proto`.
"""
