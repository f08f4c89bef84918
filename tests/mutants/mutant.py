"""What a planted bug is: a name, what it breaks, and exact snippets of the product's source with what replaces them.

A snippet has to be found once and only once. Where the code has moved the catalogue says so, and plants nothing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

NO_PITFALL = 0


class Unplantable(Exception):
    """The catalogue is at fault, and not the tests: a snippet that is not there (once), a module that is not loaded."""


class Patch(NamedTuple):
    """In the source of `module`, `old` becomes `new`."""

    module: str
    old: str
    new: str

    def apply(self, source: str) -> str:
        count = source.count(self.old)
        if count != 1:
            raise Unplantable(f"{self.module} holds {count} times, not once: {self.old!r}")
        return source.replace(self.old, self.new)


class Mutant(NamedTuple):
    """`breaks`: one line, what is wrong with it. `tests`: pytest targets that have to notice. `pitfall`: the number of
    the bug class among those other implementations had, 0 for none. `fast`: those tests take seconds. `simulated`: the
    simulator runs the code in question, and is asked too; unless `masked` says why no run of the whole product can tell
    this bug from none."""

    name: str
    breaks: str
    patches: tuple[Patch, ...]
    tests: tuple[str, ...]
    pitfall: int = NO_PITFALL
    fast: bool = True
    simulated: bool = True
    masked: str = ""

    @property
    def is_asked(self) -> bool:
        return self.simulated and not self.masked

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(patch.module for patch in self.patches))

    def planted(self, module: str, source: str) -> str:
        for patch in self.patches:
            if patch.module == module:
                source = patch.apply(source)
        return source

    def check(self) -> None:
        """Raises `Unplantable`, and `SyntaxError` for what does not compile."""
        for module in self.modules:
            spec = importlib.util.find_spec(module)
            if spec is None or spec.origin is None:
                raise Unplantable(f"there is no module {module}")
            compile(self.planted(module, Path(spec.origin).read_text()), spec.origin, "exec", dont_inherit=True)
