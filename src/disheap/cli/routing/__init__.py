"""`exchange`, `binding` and `publish`: how a message finds its topics.

`exchanges` has the verbs about exchanges, `bindings` those about bindings, and `publishing` sends a message through an
exchange. `disheap.cli.main` calls them. They know the blocking client, and nothing of nodes. Start reading at
`exchanges`.
"""
