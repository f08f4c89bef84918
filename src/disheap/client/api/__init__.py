"""What applications call: clients, topics, consumers and deliveries, for asyncio and for blocking code.

Owns the words and their documentation. Both variants have the same names, and the same code but for the waiting: a test
compares them, method by method. Applications call it. It knows no frame and no socket. Start reading at `asynchronous`.
"""
