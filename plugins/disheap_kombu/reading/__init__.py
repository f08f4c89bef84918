"""Messages on their way in: from the socket to a callback, in kombu's hub or without one.

`connection` and `transport` use it. It refuses to know AMQP's verbs. Start reading at `events`.
"""
