"""What a child saw, and what follows from it."""

from __future__ import annotations

from typing import NamedTuple

from tests.mutants.mutant import Mutant


class Seen(NamedTuple):
    """`by`: the test or seed that noticed, "" for none; `says`: how; `ran`: tests or seeds that were run until then.
    `broken`: the run proves nothing, for the reason given."""

    by: str = ""
    says: str = ""
    ran: int = 0
    seconds: float = 0.0
    broken: str = ""


class Verdict(NamedTuple):
    """`seeds` is None if the simulator was not asked."""

    mutant: Mutant
    tests: Seen
    seeds: Seen | None

    @property
    def broken(self) -> str:
        return self.tests.broken or (self.seeds.broken if self.seeds is not None else "")

    @property
    def caught(self) -> bool:
        """A bug that its tests do not see is not caught, whatever the simulator says. Its place is known, so a test can
        be there."""
        return bool(self.tests.by) and not self.broken
