"""Each example is started as its page says, in a process of its own, and what it prints is read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "contrib" / "examples"
TIMEOUT_S = 150

pytestmark = pytest.mark.timeout(TIMEOUT_S + 30)


def run(name: str, *arguments: str) -> str:
    """Returns what the example printed. It must end by itself, with exit code 0."""
    command = [sys.executable, str(EXAMPLES / name / "run.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_shop_packs_the_express_parcel_before_those_that_wait() -> None:
    shown = run("celery_shop")
    found = re.search(r"the express parcel was sent last, and waited for (\d+) others", shown)
    assert found is not None, shown
    assert int(found[1]) <= 1, shown
    order = re.search(r"packed in this order: (.+)", shown)
    assert order is not None, shown
    parcels = [one for one in order[1].split(", ") if "express" not in one]
    assert parcels == [f"parcel {number}" for number in range(8)]


def test_the_shop_reminds_when_it_is_due_and_adds_up_a_chord() -> None:
    shown = run("celery_shop")
    waited = re.search(r"until it was due: ([\d.]+) s of ([\d.]+) s", shown)
    assert waited is not None, shown
    assert float(waited[1]) >= float(waited[2])
    assert "the bill for 20 items: 29.10" in shown


def test_the_parcels_of_kombu_come_in_the_order_of_their_priorities() -> None:
    shown = run("kombu_parcels")
    assert "100 parcels came, 10 of them twice" in shown
    assert "the most urgent ones came first: yes" in shown


def test_the_orders_of_django_are_packed_and_flower_shows_worker_and_beat() -> None:
    shown = run("django_orders", "--check")
    for what in ("order 1 is packed", "order 2 is packed", "Flower sees the worker", "Flower sees a task of beat"):
        assert f"{what}: yes" in shown, shown
    assert "packed a lamp" in shown


@pytest.mark.parametrize("name", ["celery_shop", "kombu_parcels", "django_orders"])
def test_the_page_of_the_examples_has_the_command(name: str) -> None:
    page = (EXAMPLES / "README.md").read_text()
    assert f"python contrib/examples/{name}/run.py" in page
