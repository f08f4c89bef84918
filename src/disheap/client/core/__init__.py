"""The client's protocol without I/O: bytes go in, events and bytes come out.

Owns the session, what is unanswered, what is held, and where to connect next. Both drivers in `client.io` call it. It
knows no socket and no clock. Start reading at `session`, then `broker_session`.
"""
