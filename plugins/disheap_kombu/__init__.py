"""The kombu transport: `disheap://` for Celery and kombu.

`transport` is the class that kombu loads. `connection` and `channel` follow AMQP's words. `publishing` has the way of a
message to the broker, `reading` that of a delivery from the socket to a callback and to kombu's hub. The plugin uses
the blocking client. Of Celery it knows the headers of a task, the application's time zone and the names of two steps.
It also knows how many tasks the pool of a worker runs (`celery_pool`). Kombu calls it. Start reading at `transport`,
then `channel`.
"""
