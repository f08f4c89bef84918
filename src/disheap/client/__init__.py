"""Clients: one sans-IO session, an asyncio and a blocking driver over it. Nothing here imports a server part."""
