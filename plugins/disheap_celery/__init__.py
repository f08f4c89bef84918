"""What only Celery knows: the result backend `disheap://`.

`backend` is the class that Celery loads, and `consumer` waits for results by push. `chords` has the task that carries
out the body of a chord, once. `results` is the connection to the broker, and `options` reads what the application says
about it. Celery calls the package, in workers and in programs that wait for results. It knows no kombu transport: it
asks the application's channel for what it needs. Start reading at `backend`.
"""
