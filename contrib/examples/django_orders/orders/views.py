"""The pages, as JSON."""

from __future__ import annotations

from celery.result import AsyncResult
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt

from orders.models import Order
from orders.tasks import pack

EXPRESS = 1_000_000


@csrf_exempt
def orders(request: HttpRequest) -> JsonResponse:
    """POST takes an order: `item`, and `express=1` for one that overtakes the others. GET lists all orders."""
    if request.method != "POST":
        return JsonResponse({"orders": list(Order.objects.values("id", "item", "state"))})
    item = request.POST.get("item", "").strip()
    if not item:
        return JsonResponse({"error": "say what is ordered: item=NAME"}, status=400)
    order = Order.objects.create(item=item)
    priority = EXPRESS if request.POST.get("express") else 0
    # The task must not run before the order is in the database.
    transaction.on_commit(lambda: _send(order, priority))
    return JsonResponse({"id": order.pk}, status=201)


def order(request: HttpRequest, number: int) -> JsonResponse:
    """Shows an order, and the result of its task."""
    found = get_object_or_404(Order, pk=number)
    result = AsyncResult(found.task) if found.task else None
    answer = {"id": found.pk, "item": found.item, "state": found.state}
    return JsonResponse({**answer, "task": result.state if result else "", "result": result.result if result else None})


def _send(order: Order, priority: int) -> None:
    task = pack.apply_async([order.pk], priority=priority)
    Order.objects.filter(pk=order.pk).update(task=task.id)
