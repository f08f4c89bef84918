"""Puts a bug into the product while it is imported. Files and caches of compiled code stay as they are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from tests.mutants.mutant import Mutant, Unplantable


class Planter(MetaPathFinder):
    """Stands before all other finders. `planted` names the modules that were loaded with the bug in them."""

    def __init__(self, mutant: Mutant) -> None:
        self.planted: list[str] = []
        self._mutant = mutant

    def install(self) -> None:
        loaded = [module for module in self._mutant.modules if module in sys.modules]
        if loaded:
            raise Unplantable(f"{', '.join(loaded)} was imported before the bug could be planted")
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._mutant.modules:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, self)
        return spec

    def code_of(self, module: str, path: str) -> CodeType:
        source = self._mutant.planted(module, Path(path).read_text())
        self.planted.append(module)
        return compile(source, path, "exec", dont_inherit=True)

    def check_planted(self) -> None:
        missing = [module for module in self._mutant.modules if module not in self.planted]
        if missing:
            raise Unplantable(f"{', '.join(missing)} was not imported: the run says nothing about this bug")


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, planter: Planter) -> None:
        super().__init__(fullname, path)
        self._planter = planter

    def get_code(self, fullname: str) -> CodeType:
        return self._planter.code_of(fullname, self.path)
