"""The mapping by number: few entries are copied at once, memory is given back, and the order is that of the keys."""

from __future__ import annotations

from tests.mutants.mutant import Mutant, Patch

TABLES = "tests/heap/test_partitioned.py::"

MUTANTS = (
    Mutant(
        "stale-ack-loses-the-lease",
        "an ack of another session takes the lease away from its holder, and the message never comes back",
        (Patch("disheap_heap:_ack_one", "            state.leases.put(token[0], lease)\n", "            pass\n"),),
        ("tests/heap/test_leases.py::test_a_token_of_an_earlier_epoch_is_stale",),
        simulated=False,
    ),
    Mutant(
        "table-copied-whole-when-it-grows",
        "the loop stops for 76 ms when a topic gets the message number 1.4 million",
        (Patch("disheap_heap:PartitionedDict.put", "if len(last) < self.limit:", "if True:"),),
        (TABLES + "test_no_insertion_and_no_removal_copies_more_than_a_partition",),
        simulated=False,
    ),
    Mutant(
        "full-partition-grows-before-the-last-one",
        "messages that come back in any order make one partition as large as the whole table",
        (Patch("disheap_heap:_Earlier.put", "if before < PARTITION_MAX or key in partition:", "if True:"),),
        (TABLES + "test_no_insertion_and_no_removal_copies_more_than_a_partition",),
        simulated=False,
    ),
    Mutant(
        "table-read-in-the-order-of-insertion",
        "a replica that was restored reads its tables in another order than the others",
        (Patch("disheap_heap:PartitionedDict.__iter__", "yield from sorted(partition)", "yield from partition"),),
        (TABLES + "test_two_tables_with_equal_entries_are_read_in_the_same_order",),
        simulated=False,
    ),
    Mutant(
        "few-survivors-hold-the-memory-of-all",
        "a few old messages keep the memory of the millions that left",
        (
            Patch(
                "disheap_heap:PartitionedDict.take",
                "        if not len(partition) & LOOK_MASK:\n",
                "        if not partition:\n",
            ),
        ),
        (TABLES + "test_few_survivors_hold_little_memory",),
        simulated=False,
    ),
    Mutant(
        "split-loses-an-entry",
        "a message is in the order of its topic and cannot be found by its id",
        (Patch("disheap_heap:_halves", "keys[half:]))", "keys[half + 1 :]))"),),
        (TABLES + "test_it_is_a_dict_that_is_read_in_the_order_of_its_keys",),
        simulated=False,
    ),
    Mutant(
        "partition-is-looked-for-where-it-was",
        "a message is put where nobody finds it, because its partition was replaced",
        (
            Patch(
                "disheap_heap:_Earlier._replace",
                "        self.recent, self.recent_start, self.recent_end = {}, 0, 0\n",
                "",
            ),
        ),
        (TABLES + "test_it_is_a_dict_that_is_read_in_the_order_of_its_keys",),
        simulated=False,
    ),
)
