"""The command line: one small file for each family of verbs. Knows clients, runtime and people; nobody imports it."""
