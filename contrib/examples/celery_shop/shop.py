"""The shop: sends tasks, and waits for their results. A worker must run: `celery -A tasks worker`."""

from __future__ import annotations

import time

from celery import chord
from tasks import bill, pack, price, remind

EXPRESS = 1_000_000
"""A priority may be any signed 64-bit integer. A higher one comes first."""
REMIND_IN_S = 2.0
ITEMS = [f"item {number}" for number in range(20)]


def main() -> None:
    """Shows a task that overtakes others, one that waits in the broker, and a chord."""
    price.delay("nothing").get(timeout=60)  # now a worker runs

    asked = time.time()
    reminder = remind.apply_async(["Ada"], countdown=REMIND_IN_S, priority=EXPRESS)

    parcels = {pack.apply_async([f"parcel {number}"]): f"parcel {number}" for number in range(8)}
    parcels[pack.apply_async(["the express parcel"], priority=EXPRESS)] = "the express parcel"

    total = chord(price.s(item) for item in ITEMS)(bill.s())

    began = {result.get(timeout=60): parcel for result, parcel in parcels.items()}
    order = [began[moment] for moment in sorted(began)]
    print(f"packed in this order: {', '.join(order)}")
    print(f"the express parcel was sent last, and waited for {order.index('the express parcel')} others")
    waited_s = reminder.get(timeout=60) - asked
    print(f"the reminder waited in the broker until it was due: {waited_s:.1f} s of {REMIND_IN_S:g} s")
    print(f"the bill for {len(ITEMS)} items: {total.get(timeout=60) / 100:.2f}")


if __name__ == "__main__":
    main()
