"""The planted bugs, a module for each part of the product. A name says what is wrong, and is used once."""

from __future__ import annotations

from tests.mutants.catalogue import (
    backups,
    batches,
    client,
    connections,
    elections,
    forwarding,
    group_transactions,
    groups,
    heap,
    identity,
    joining,
    kombu,
    membership,
    memory,
    messages,
    monitoring,
    overtaking,
    repair,
    replication,
    runtime,
    searching,
    sessions,
    storage,
    tables,
    transactions,
    wire,
)
from tests.mutants.mutant import Mutant

CATALOGUE: tuple[Mutant, ...] = (
    *elections.MUTANTS,
    *replication.MUTANTS,
    *membership.MUTANTS,
    *joining.MUTANTS,
    *runtime.MUTANTS,
    *memory.MUTANTS,
    *forwarding.MUTANTS,
    *groups.MUTANTS,
    *sessions.MUTANTS,
    *storage.MUTANTS,
    *repair.MUTANTS,
    *backups.MUTANTS,
    *identity.MUTANTS,
    *heap.MUTANTS,
    *tables.MUTANTS,
    *overtaking.MUTANTS,
    *batches.MUTANTS,
    *transactions.MUTANTS,
    *group_transactions.MUTANTS,
    *messages.MUTANTS,
    *client.MUTANTS,
    *searching.MUTANTS,
    *kombu.MUTANTS,
    *wire.MUTANTS,
    *connections.MUTANTS,
    *monitoring.MUTANTS,
)

BY_NAME: dict[str, Mutant] = {mutant.name: mutant for mutant in CATALOGUE}
