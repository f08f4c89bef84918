"""When a leader raises the cluster's versions, and who is refused for the versions that it runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from disheap.errors import WrongVersion
from disheap.protocol import frames
from disheap.protocol.frames import Kind
from disheap.runtime.replica.versions import Supported, Versions, check_supported

TICKS = 4
OLD, NEW = Supported((1, 1), (1, 1)), Supported((1, 2), (1, 1))


class Group:
    """A leader of a release that runs machine_version 1 to 3."""

    def __init__(self) -> None:
        machine = SimpleNamespace(versions=(1, 3))
        self.sessions: Any = SimpleNamespace(machine=machine, machine_version=1, log_version=1, is_version_known=True)
        self.leads = True
        self.hears_all = True
        self.submitted: list[tuple[int, bytes]] = []

    @property
    def contact(self) -> Any:
        return SimpleNamespace(hears_all_members=lambda: self.hears_all)

    def submit(self, envelopes: bytes) -> None:
        found = frames.open_envelope(envelopes)
        self.submitted.append((found.kind, found.body))


def raised(group: Group, versions: Versions) -> list[tuple[int, bytes]]:
    """What is asked of the log in as many ticks as it takes."""
    before = len(group.submitted)
    for _ in range(2 * TICKS):
        versions.raise_if_due(group)
    return group.submitted[before:]


def test_the_version_is_the_highest_of_every_member_and_asked_for_once_a_term() -> None:
    group = Group()
    versions = Versions(lambda: [NEW, Supported((1, 9), (1, 4))], TICKS)
    assert raised(group, versions) == [(Kind.RAISE_VERSION, b"\x02\x01")]
    versions.new_term(group)
    assert len(raised(group, versions)) == 1


@pytest.mark.parametrize("leads", [True, False])
def test_a_release_without_version_1_states_its_lowest_in_front_of_a_new_log(leads: bool) -> None:
    group = Group()
    group.sessions.machine.versions, group.sessions.machine_version = (2, 2), 2
    group.sessions.is_version_known, group.leads = False, leads
    Versions(lambda: None, TICKS).new_term(group)
    assert group.submitted == ([(Kind.RAISE_VERSION, b"\x02\x01")] if leads else [])


@pytest.mark.parametrize("others", [None, [NEW, OLD], [OLD]])
def test_no_version_is_raised_while_a_member_is_old_or_unknown(others: list[Supported] | None) -> None:
    assert raised(Group(), Versions(lambda: others, TICKS)) == []


def test_no_version_is_raised_while_a_member_does_not_answer() -> None:
    """It may be stopped, to be rolled back."""
    group = Group()
    versions = Versions(lambda: [NEW, NEW], TICKS)
    group.hears_all = False
    assert raised(group, versions) == []
    group.hears_all = True
    assert len(raised(group, versions)) == 1


def test_every_member_has_to_answer_after_the_last_one_was_upgraded() -> None:
    """An answer counts for a while. The member that gave it may have been stopped since."""
    group, others = Group(), [NEW, OLD]
    versions = Versions(lambda: others, TICKS)
    assert raised(group, versions) == []
    others[1] = NEW
    for _ in range(TICKS - 1):
        versions.raise_if_due(group)
    group.hears_all = False
    assert raised(group, versions) == []
    group.hears_all = True
    for _ in range(TICKS - 1):
        versions.raise_if_due(group)
    assert group.submitted == []
    versions.raise_if_due(group)
    assert len(group.submitted) == 1


def test_a_log_version_is_raised_like_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("disheap.runtime.replica.versions.LOG_VERSIONS", (1, 2))
    group = Group()
    group.sessions.machine.versions = (1, 1)
    assert raised(group, Versions(lambda: [OLD], TICKS)) == []
    newer = Supported((1, 1), (1, 2))
    assert raised(group, Versions(lambda: [newer], TICKS)) == [(Kind.RAISE_VERSION, b"\x01\x02")]


@pytest.mark.parametrize(
    ("supported", "cluster", "words"),
    [
        (OLD, (2, 1), "machine_version 2, as n1 says, and n3 runs 1 to 1.*Install the release that the other members"),
        (OLD, (1, 2), "log_version 2, as n1 says, and n3 runs 1 to 1"),
        (Supported((3, 4), (1, 1)), (2, 1), "n3 runs 3 to 4.*Install an older release first"),
    ],
)
def test_a_node_that_does_not_run_the_clusters_versions_is_refused(
    supported: Supported, cluster: tuple[int, int], words: str
) -> None:
    with pytest.raises(WrongVersion, match=words):
        check_supported("n3", supported, cluster, "n1")


def test_a_node_that_runs_them_is_not_refused() -> None:
    check_supported("n3", NEW, (2, 1))
    check_supported("n3", OLD, (0, 0))
