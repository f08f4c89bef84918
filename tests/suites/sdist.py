"""The tests of an installed package, from its source distribution."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

TESTS = "t"
"""The folder with the tests of kombu and of Celery."""


def fetch_tests(project: str, directory: Path) -> Path:
    """Downloads the sdist of the installed version of `project` with pip, and unpacks its tests into `directory`.

    Returns the folder that holds `t`. The package itself is not unpacked. So the tests import the installed one.
    Raises `subprocess.CalledProcessError` if pip fails, `LookupError` if the sdist has no tests.
    """
    wanted = f"{project}=={version(project)}"
    folder = directory / f"{project}-{version(project)}"
    downloads = directory / "downloads"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--dest", str(downloads)]
    subprocess.run([*pip, "--no-deps", "--no-binary", project, wanted], check=True)
    unpack_tests(next(downloads.glob(f"{project}-*.tar.gz")), folder)
    return folder


def unpack_tests(archive: Path, folder: Path) -> None:
    """Unpacks what is under `NAME-VERSION/t/` in `archive` into `folder/t`. Raises `LookupError` if that is nothing."""
    with tarfile.open(archive) as opened:
        members = []
        for member in opened.getmembers():
            _, _, name = member.name.partition("/")
            if name == TESTS or name.startswith(f"{TESTS}/"):
                member.name = name
                members.append(member)
        if not members:
            raise LookupError(f"{archive.name} has no folder {TESTS!r}")
        opened.extractall(folder, members, filter="data")
