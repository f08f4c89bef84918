"""The kombu transport: `disheap://` for Celery and kombu.

`transport` is the class that kombu loads. `connection` and `channel` follow AMQP's words. `events` has the way of a
delivery from the socket to a callback. `eventloop` connects it to kombu's hub. The plugin uses the blocking client and
knows no Celery. Kombu calls it. Start reading at `transport`, then `channel`.
"""
