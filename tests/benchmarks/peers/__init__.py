"""disheap beside RabbitMQ and Redis: the same kombu and Celery workloads, in one run.

    tox -e peers
    python -m tests.benchmarks.peers --rounds 1 --seconds 0.3 --only publish --broker disheap-1

`brokers` starts each broker on ports and in a directory of its own, and ends it. `settings` says how a broker is used,
and what its confirmation is worth. `with_kombu` and `with_celery` have the workloads, `idle` what a worker without work
costs. `tasks` is the Celery application. `figures` makes medians and ratios, `report` the page, `chart` the pictures.
Start reading at `__main__`.
"""
