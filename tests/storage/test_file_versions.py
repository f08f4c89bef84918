"""Files of a newer format: refused by name, not taken for damage, and left as they are."""

from __future__ import annotations

from types import ModuleType

import pytest

from disheap.errors import VersionUnsupported
from disheap.testing.crashing_disk import CrashingDisk
from disheap_filelog.segments import segment
from disheap_filelog.small_files import meta
from disheap_filelog.snapshots import snapshot
from tests.storage.parts import DIRECTORY, IDENTITY, build, entries, opened, read_log, read_snapshot, write_snapshot


@pytest.mark.parametrize(("module", "file"), [(meta, "meta"), (segment, "log-"), (snapshot, "snapshot-")])
@pytest.mark.parametrize("alone", [True, False])
def test_a_file_of_a_newer_format_is_refused_and_stays_as_it_is(
    module: ModuleType, file: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = CrashingDisk()
    with monkeypatch.context() as later:
        later.setattr(module, "VERSION", module.VERSION + 1)
        storage = opened(disk)
        storage.append(entries(1, 5))
        write_snapshot(storage, 3, b"the state")
        storage.close()
    with pytest.raises(VersionUnsupported) as caught:
        build(disk).open(IDENTITY, 0, alone=alone)
    found, known = f"format version {module.VERSION + 1}", f"reads up to {module.VERSION}"
    for words in (f"{DIRECTORY}/{file}", found, known, "Install that release"):
        assert words in str(caught.value)
    with monkeypatch.context() as later:
        later.setattr(module, "VERSION", module.VERSION + 1)
        storage = build(disk)
        assert storage.open(IDENTITY, 0, alone=alone).last_index == 5
        assert [entry.index for entry in read_log(storage, 4, 5)] == [4, 5]
        assert read_snapshot(storage) == b"the state"
