"""The application: its tasks, and where its broker is. The results go to the same place."""

from __future__ import annotations

import os
import time

from celery import Celery

URL = os.environ.get("DISHEAP_URL", "disheap://localhost:8400")
PACKING_S = 0.2

app = Celery("tasks", broker=URL, backend=URL)
app.conf.update(
    task_default_queue="shop",
    task_acks_late=True,  # a parcel is packed again if the worker dies over it
    broker_connection_retry_on_startup=True,
)


@app.task
def pack(parcel: str) -> float:
    """Packs a parcel. Returns when that began, in seconds since 1970."""
    began = time.time()
    time.sleep(PACKING_S)
    print(f"packed {parcel}", flush=True)
    return began


@app.task
def remind(customer: str) -> float:
    """Reminds a customer. Returns when, in seconds since 1970."""
    print(f"reminded {customer}", flush=True)
    return time.time()


@app.task
def price(item: str) -> int:
    """Returns the price of an item, in cents."""
    return 100 + 7 * len(item)


@app.task
def bill(prices: list[int]) -> int:
    """Returns the sum of the prices, in cents."""
    return sum(prices)
