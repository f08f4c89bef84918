"""What stands for the outside of a process: time, chance, the network, the disks, and the record of what happened.

Owns the loop with its virtual time, the one source of chance, the transport `sim`, and what a power cut leaves of a
file. All other folders call it. It knows no node and no client. Start reading at `loop`, then `network`.
"""
