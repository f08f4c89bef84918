"""The commands on sessions, consumers, topics and exchanges, and those that enqueue.

Owns what is checked before a command, what it changes, and how a refusal reads. `machine` calls a handler for each
command. `transactions` and `work` call some of the steps. Messages are moved by `delivery`, which handles the commands
on leases itself. The folder knows no transactions and no snapshots. Start reading at `enqueue`.
"""
