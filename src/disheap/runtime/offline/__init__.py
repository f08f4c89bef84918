"""What an operator does while no node runs: verify, restore and recover.

`verifying` reads a backup or a data directory. `founding` makes the data directories of a new cluster. `restoring` and
`recovering` use it, with the state of a backup or of a survivor's disk. `states` builds that state. Called by the
command line alone. Does not know clients, peers and the loop: everything here blocks. Start reading at `founding`.
"""
