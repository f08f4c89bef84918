"""The kombu transport: `disheap://` for Celery and kombu.

`transport` is the class that kombu loads; `connection` and `channel` follow AMQP's words; `eventloop` ties a connection
to kombu's hub. It uses the blocking client and knows no Celery. Start reading at `transport`, then `channel`.
"""
