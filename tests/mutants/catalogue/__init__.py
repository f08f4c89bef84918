"""The planted bugs, a module for each part of the product. A name says what is wrong, and is used once."""

from __future__ import annotations

from tests.mutants.catalogue import (
    client,
    connections,
    elections,
    forwarding,
    groups,
    heap,
    identity,
    kombu,
    membership,
    memory,
    messages,
    repair,
    replication,
    runtime,
    searching,
    sessions,
    storage,
    wire,
)
from tests.mutants.mutant import Mutant

CATALOGUE: tuple[Mutant, ...] = (
    *elections.MUTANTS,
    *replication.MUTANTS,
    *membership.MUTANTS,
    *runtime.MUTANTS,
    *memory.MUTANTS,
    *forwarding.MUTANTS,
    *groups.MUTANTS,
    *sessions.MUTANTS,
    *storage.MUTANTS,
    *repair.MUTANTS,
    *identity.MUTANTS,
    *heap.MUTANTS,
    *messages.MUTANTS,
    *client.MUTANTS,
    *searching.MUTANTS,
    *kombu.MUTANTS,
    *wire.MUTANTS,
    *connections.MUTANTS,
)

BY_NAME: dict[str, Mutant] = {mutant.name: mutant for mutant in CATALOGUE}
