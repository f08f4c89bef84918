"""The tasks. Beat sends `count_orders`; the pages send `pack`."""

from __future__ import annotations

from celery import shared_task

from orders.models import Order


@shared_task
def pack(number: int) -> str:
    """Packs an order. A second run changes nothing, so it is safe with late acks."""
    order = Order.objects.get(pk=number)
    Order.objects.filter(pk=number, state="new").update(state="packed")
    return f"packed {order.item}"


@shared_task
def count_orders() -> int:
    """Returns how many orders are packed, and prints it."""
    count = Order.objects.filter(state="packed").count()
    print(f"{count} orders are packed", flush=True)
    return count
