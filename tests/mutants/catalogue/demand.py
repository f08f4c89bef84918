"""A worker's tasks that wait for a free slot of its pool. The simulator has no kombu in it."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

DEMAND = "tests/kombu/test_kombu_demand.py::"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "tasks-wait-in-the-order-of-arrival",
        "an urgent task that a worker holds begins after all that came before it",
        (Patch("disheap_kombu:Demand.add", "(push.priority, -push.id,", "(0, -push.id,"),),
        (DEMAND + "test_the_most_urgent_message_begins_first_and_then_the_oldest",),
        simulated=False,
    ),
    Mutant(
        "worker-keeps-what-is-too-much",
        "each urgent task makes a worker hold one task more, which no other worker can run",
        (
            Patch(
                "disheap_kombu:Demand.settle",
                "            del self._waiting[:excess]\n",
                "            given_back = []\n",
            ),
        ),
        (DEMAND + "test_what_overtakes_sends_the_least_urgent_message_back",),
        simulated=False,
    ),
    Mutant(
        "worker-gives-the-most-urgent-task-back",
        "the task that overtook goes back to the broker, and the low ones begin",
        (
            Patch(
                "disheap_kombu:Demand.settle",
                "            given_back = [entry[-1] for entry in self._waiting[:excess]]\n"
                "            del self._waiting[:excess]\n",
                "            given_back = [self._waiting.pop()[-1] for _ in range(excess)]\n",
            ),
        ),
        (DEMAND + "test_what_overtakes_sends_the_least_urgent_message_back",),
        simulated=False,
    ),
    Mutant(
        "worker-asks-once-for-urgent-tasks",
        "after the first urgent task a busy worker learns of no other",
        (
            Patch(
                "disheap_kombu:Demand.add",
                "            self._asked = None  # it may be the one that was asked for\n",
                "            pass\n",
            ),
            Patch("disheap_kombu:Demand.settle", "self._waiting[0][0] != self._asked and", "self._asked is None and"),
        ),
        (DEMAND + "test_what_overtakes_sends_the_least_urgent_message_back",),
        simulated=False,
    ),
    Mutant(
        "credit-falls-after-the-ack",
        "with worker_disable_prefetch each acknowledged task brings another one to a full pool",
        (
            Patch(
                "disheap_kombu:SessionEvents._send_acks",
                "        for command in self._deliveries.demand.changed_credit():\n"
                "            self._outbox.send(command)\n"
                "        self._outbox.send_acks()\n",
                "        self._outbox.send_acks()\n"
                "        for command in self._deliveries.demand.changed_credit():\n"
                "            self._outbox.send(command)\n",
            ),
        ),
        (DEMAND + "test_without_a_buffer_the_credit_follows_the_free_slots",),
        simulated=False,
    ),
    Mutant(
        "end-of-a-task-counts-twice-or-never",
        "a pool of threads stands still for a second, because its last free slot was missed",
        (
            Patch(
                "disheap_kombu:WorkerPool._count_running",
                "            if sizes == (len(reserved), len(active)):\n"
                "                break  # no thread has noted an end meanwhile\n",
                "            break\n",
            ),
        ),
        (DEMAND + "test_an_end_that_celery_notes_meanwhile_counts_once",),
        simulated=False,
    ),
    Mutant(
        "wake-lost-in-a-reset",
        "one wake at the wrong moment silences all later ones, and the loop sees a free slot a second late",
        (
            Patch(
                "disheap_kombu:Waker.reset",
                "            self._reader.recv(4096)\n        self._is_woken = False\n",
                "            self._is_woken = False\n            self._reader.recv(4096)\n",
            ),
        ),
        ("tests/kombu/test_kombu_waker.py::test_a_wake_during_a_reset_does_not_silence_later_ones",),
        simulated=False,
    ),
    Mutant(
        "soft-shutdown-holds-what-waits",
        "what a worker has taken ahead waits for worker_soft_shutdown_timeout before others get it",
        (
            Patch(
                "disheap_kombu:leave_before_soft_shutdown",
                "    controller.wait_for_soft_shutdown = leave_and_wait\n",
                "    assert leave_and_wait\n",
            ),
        ),
        ("tests/kombu/test_kombu_eventloop.py::test_a_worker_leaves_its_queues_before_it_waits_for_its_tasks",),
        simulated=False,
    ),
    Mutant(
        "soft-shutdown-lets-the-session-lapse",
        "the session ends while a worker waits for its tasks, and they run twice",
        (Patch("disheap_kombu:SessionEvents._leave_pool", "            hub.keep_alive()\n", ""),),
        ("tests/kombu/test_kombu_eventloop.py::test_a_session_is_kept_alive_while_celery_sleeps_before_its_end",),
        simulated=False,
    ),
)
