"""What all replicas share: the records of the heap, and views of them at one moment.

Owns the records, their counts, the memory that they take, and what a view keeps of a record before it changes.
`delivery`, `commands` and `transactions` change the records. `snapshots` and the queries read them. The folder knows
no command, and it does not decide what happens to a message. Start reading at `state.State`.
"""
