"""`disheap demo`: three nodes, a Celery worker, and a leader that is killed while tasks run.

`command` is the verb, `run` the course of the demo, and `overtaking` its second part. `watching` reads what the tasks
write down, and `counting` makes figures of it. `disheap.cli.main` calls it. It knows clients and processes, and nothing
inside a node. Start reading at `run`.
"""
