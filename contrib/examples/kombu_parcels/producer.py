"""Publishes parcels to a topic exchange. Each publish returns when the message is confirmed."""

from __future__ import annotations

import os

from kombu import Connection, Exchange, Queue

URL = os.environ.get("DISHEAP_URL", "disheap://localhost:8400")
COUNT = 100

parcels = Exchange("parcels", type="topic")
north = Queue("north", parcels, routing_key="parcel.north.#")


def main() -> None:
    """Publishes parcels for the north with priorities 0 to 9, and some for the south, which no queue takes."""
    with Connection(URL) as connection, connection.Producer(serializer="json") as producer:
        for number in range(COUNT):
            producer.publish(
                {"parcel": number},
                exchange=parcels,
                routing_key="parcel.north.oslo",
                priority=number % 10,
                declare=[north],
            )
        producer.publish({"parcel": "for nobody"}, exchange=parcels, routing_key="parcel.south.rome")
    print(f"{COUNT} parcels are on disk, or in memory if the broker has no disk")


if __name__ == "__main__":
    main()
