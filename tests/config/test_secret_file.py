"""Where the cluster's secret comes from, and where it must not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from disheap.config.cluster_secret import new_secret, read_secrets, write_new
from disheap.config.node_config import NodeConfig, load
from disheap.errors import ConfigError

SECRET = "0123456789abcdef" * 4


def file_of(directory: Path, text: str, mode: int = 0o600) -> str:
    path = directory / "secret"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_a_new_secret_is_written_for_its_owner_alone_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_new(path)
    assert path.stat().st_mode & 0o777 == 0o600
    (secret,) = read_secrets("", str(path))
    assert re.fullmatch(rb"[0-9a-f]{64}", secret)
    with pytest.raises(ConfigError, match="is there already"):
        write_new(path)


def test_no_two_are_alike() -> None:
    assert new_secret() != new_secret()


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o660, 0o644])
def test_a_file_that_others_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match=r"others may read or change it.*chmod 600"):
        read_secrets("", file_of(tmp_path, SECRET, mode))


def test_a_group_may_read_it(tmp_path: Path) -> None:
    assert read_secrets("", file_of(tmp_path, SECRET, 0o640)) == (SECRET.encode(),)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds 0 secrets"),
        ("short", "a secret of 5 characters"),
        (" ".join([SECRET] * 3), "holds 3 secrets"),
        ("x" * 1025, "a secret of 1025 characters"),
        ("ä" * 40, "something else than ASCII"),
    ],
)
def test_what_is_no_secret_is_refused_and_not_repeated(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refusal:
        read_secrets("", file_of(tmp_path, text))
    assert not text or text not in str(refusal.value)


def test_it_is_given_once() -> None:
    with pytest.raises(ConfigError, match="both set"):
        read_secrets(SECRET, "file")


def test_two_are_taken_in_their_order() -> None:
    assert read_secrets(f"{SECRET}\n{SECRET[::-1]}\n", "") == (SECRET.encode(), SECRET[::-1].encode())


def test_the_environment_may_hold_it_and_no_flag_and_no_file_of_settings(tmp_path: Path) -> None:
    assert load(None, {"DISHEAP_CLUSTER_SECRET": SECRET}, {}).cluster_secret == SECRET
    with pytest.raises(ConfigError, match="stands where others read it") as refusal:
        load(None, {}, {"cluster_secret": SECRET})
    assert SECRET not in str(refusal.value)
    file = tmp_path / "disheap.toml"
    file.write_text(f'cluster_secret = "{SECRET}"\n')
    with pytest.raises(ConfigError, match="cluster_secret_file"):
        load(file, {}, {})


def test_it_is_not_shown_with_the_settings() -> None:
    assert SECRET not in repr(NodeConfig(name="n1", cluster_secret=SECRET))
