"""The table: one line for each planted bug, what noticed it, and after how much."""

from __future__ import annotations

from collections.abc import Sequence

from tests.mutants.mutant import Mutant
from tests.mutants.verdict import Seen, Verdict

CELL = 70
"""Characters of a violation in the table of the documentation."""


def listed(mutant: Mutant) -> str:
    pitfall = f"class {mutant.pitfall}" if mutant.pitfall else "-"
    return f"{mutant.name:<46} {pitfall:<9} {'fast' if mutant.fast else '-':<5} {mutant.breaks}"


def line(verdict: Verdict) -> str:
    mutant, tests, seeds = verdict
    word = "BROKEN" if verdict.broken else "caught" if verdict.caught else "SURVIVED"
    parts = [f"{word:<8} {mutant.name:<46} {tests.seconds:5.1f} s  {verdict.broken or _test_name(tests) or '-'}"]
    if seeds is not None:
        parts.append(f"{'':<8} {'':<46} {seeds.seconds:5.1f} s  {_simulator(seeds)}")
    return "\n".join(parts)


def markdown(verdicts: Sequence[Verdict]) -> str:
    rows = ["| planted bug | class | what it breaks | caught by the test | by the simulator |", "|---|---|---|---|---|"]
    for verdict in verdicts:
        mutant, tests, seeds = verdict
        not_asked = f"not asked: {mutant.masked}" if mutant.masked else "not asked"
        simulator = not_asked if seeds is None else _cell(_simulator(seeds))
        rows.append(
            f"| `{mutant.name}` | {mutant.pitfall or ''} | {mutant.breaks} | `{_test_name(tests)}` | {simulator} |"
        )
    return "\n".join(rows)


def _cell(text: str) -> str:
    """Fit for a table, and short: what a violation says of one run is in the run's own output."""
    words = text if len(text) <= CELL else text[: text.rindex(" ", 0, CELL)] + " ..."
    return words.replace("|", "/").replace("`", "'").replace("<", "(").replace(">", ")")


def summary(verdicts: Sequence[Verdict]) -> str:
    caught = sum(verdict.caught for verdict in verdicts)
    asked = [verdict.seeds for verdict in verdicts if verdict.seeds is not None]
    text = f"{caught} of {len(verdicts)} planted bugs are caught"
    if asked:
        text += f"; the simulator sees {sum(bool(seen.by) for seen in asked)} of the {len(asked)} it was asked about"
    return text


def _test_name(seen: Seen) -> str:
    return seen.by.rpartition("::")[2] or seen.by


def _simulator(seen: Seen) -> str:
    if not seen.by:
        return f"nothing in {seen.ran} seeds"
    return f"{'1 seed' if seen.ran == 1 else f'{seen.ran} seeds'}: {seen.says}"
