"""Consumes parcels, and acknowledges each. A parcel that cannot be delivered goes back once."""

from __future__ import annotations

import os
from typing import Any

from producer import COUNT, URL, north

from kombu import Connection, Consumer, Message

WAIT_S = float(os.environ.get("WAIT_S", "30"))


class Delivery:
    """Counts the parcels, and keeps their priorities in the order of arrival."""

    def __init__(self) -> None:
        self.priorities: list[int] = []
        self.returned: set[int] = set()

    def take(self, body: dict[str, Any], message: Message) -> None:
        """Acknowledges a parcel. Gives every tenth back when it comes for the first time."""
        number = body["parcel"]
        if number % 10 == 0 and number not in self.returned:
            self.returned.add(number)
            message.requeue()  # it keeps its place in the order
            return
        self.priorities.append(message.delivery_info["priority"])
        message.ack()


def main() -> None:
    """Ends when all parcels are delivered."""
    delivery = Delivery()
    with Connection(URL) as connection, Consumer(connection, [north], callbacks=[delivery.take], prefetch_count=1):
        while len(delivery.priorities) < COUNT:
            try:
                connection.drain_events(timeout=WAIT_S)
            except TimeoutError:
                raise SystemExit(f"no parcel for {WAIT_S:g} s; {len(delivery.priorities)} came") from None
    in_order = delivery.priorities == sorted(delivery.priorities, reverse=True)
    print(f"{len(delivery.priorities)} parcels came, {len(delivery.returned)} of them twice")
    print(f"the most urgent ones came first: {'yes' if in_order else 'no'}")


if __name__ == "__main__":
    main()
