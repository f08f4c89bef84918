"""`peek`, `search` and `explain`: what is in a topic, without taking it.

`filters` has the language of `search`: text becomes a filter, or an error with its place. `fields` says what a filter
can ask of a message, that of Celery's messages included. `tables` shows messages, `peeking`, `searching` and
`explaining` are the verbs. `disheap.cli.main` calls them. Filters are applied here, in the client, so they cost a node
nothing but the pages. Start reading at `filters`.
"""
