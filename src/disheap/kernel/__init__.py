"""Raft as a pure function of its inputs: no sockets, files, clocks or entropy (docs/explanation/architecture.md).

§ is a section of the Raft paper, or of Ongaro's dissertation where that is said; `pitfall 8` is row 8 of
docs/explanation/raft-pitfalls.md, `storage-rules 6` row 6 of docs/explanation/storage-rules.md.
"""
