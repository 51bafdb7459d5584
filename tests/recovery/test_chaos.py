"""Ninety seconds of what `make chaos` does for as long as one likes: servers of its own, faults, an oracle."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.servers

SEED = os.environ.get("CHAOS_SEED", "8")


@pytest.mark.timeout(420)
def test_workers_under_faults_lose_nothing_and_leave_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--minutes", "1.5", "--seed", SEED],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, f"seed {SEED}: {done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["harms"], report["unexpected_ends"]) == (0, 0)
    # It was a test: there was something to harm, faults struck, and someone looked while nothing ran.
    assert report["records"] > 15_000
    assert report["faults_total"] >= 10
    assert report["prefix_checks"] == 1
