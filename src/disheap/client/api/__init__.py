"""What applications call: clients, topics, consumers and deliveries, for asyncio and for blocking code.

Owns the words and their documentation. Both variants have the same names; a test compares them. Start reading at
`asynchronous`.
"""
