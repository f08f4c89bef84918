"""Containers that the state is made of. Each has a bound on the work of one call.

Owns how records are kept in order, how they are found, and how many entries one call moves or copies. The records in
`state` are their users, and views read them. The containers know neither messages nor commands. They read no clock.
Start reading at `ordered.OrderedRecords`.
"""
