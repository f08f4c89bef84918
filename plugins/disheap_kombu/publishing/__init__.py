"""Messages on their way out: their format, their delay, batches, and publishes whose outcome is not known.

`channel` and `connection` use it. It refuses to know sockets and kombu's hub. Start reading at `messages`.
"""
