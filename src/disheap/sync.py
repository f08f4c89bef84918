"""The blocking client: `disheap.sync.connect("disheap://host1,host2")`. No thread, no loop."""

from __future__ import annotations

from disheap.client.api.receiving import Consumer, Delivery
from disheap.client.api.synchronous import Batch, Client, Pending, Topic, connect

__all__ = ["Batch", "Client", "Consumer", "Delivery", "Pending", "Topic", "connect"]
