"""Distributions made of a directory: a `dist-info` and modules, as an installer would leave them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from textwrap import dedent

import pytest
from made_plugins import MakeDistribution


@pytest.fixture
def make_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeDistribution]:
    """`make_distribution("name", {"entry": "module"}, module="source", ...)`, importable until the test ends."""
    modules: list[str] = []
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, entry_points: dict[str, str], **sources: str) -> metadata.Distribution:
        info = tmp_path / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = "".join(f"{entry} = {module}\n" for entry, module in entry_points.items())
        (info / "entry_points.txt").write_text(f"[disheap]\n{lines}")
        for module, source in sources.items():
            (tmp_path / f"{module}.py").write_text(dedent(source))
            modules.append(module)
        return metadata.PathDistribution(info)

    yield make
    for module in modules:
        sys.modules.pop(module, None)
