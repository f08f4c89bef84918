"""Version 1 of the contract with clients: `broker.proto`, and what `generate.py` makes of it."""
