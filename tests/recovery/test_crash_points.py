"""A process that ends at any named point, again and again: what is committed is stored, and a redo is exact."""

import json
import os
import random
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

import pytest

from pipeline.failpoints import EXIT_CODE
from tests.support.processes import running
from tests.support.rigs.crash_site import CrashSite, crash_site
from tests.support.rigs.load import Load
from tests.support.rigs.site import failing_at
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

SEED = int(os.environ.get("RECOVERY_SEED", "1"))
RECORDS = 100
"""For each crash; at least five batches."""

# Point -> how often it is surely reached in so many records. What is in one list is crashed one after the other: what
# the last crash left half done is there when the next one comes.
SERIES: list[dict[str, int]] = [
    {"partition_created": 4, "intent_written": 4, "ledger_read": 4, "rows_written": 4, "uncommitted": 1, "flushed": 1},
    {"rows_written": 4, "surplus_deleted": 4, "acked": 4, "dead_letter_unsent": 1, "committed": 1, "request_acked": 10},
    {"ledger_final": 4, "intent_unwritten": 4, "embedded": 2, "polled": 1, "dead_letter_sent": 1, "surplus_deleted": 4},
]
OpenSite = Callable[..., AbstractContextManager[CrashSite]]
REVOKE_POINTS = ("revoke_begun", "revoke_drained", "revoke_committed")
REPLAY_POINTS = {"uncommitted": 1, "rows_written": 3, "committed": 1, "surplus_deleted": 3, "ledger_final": 3}


@pytest.fixture
def open_site(server: str, kafka_bootstrap: str, tmp_path: Path, request: pytest.FixtureRequest) -> OpenSite:
    """`open_site(partitions=2)`: a crash site on the server of this test."""
    return partial(crash_site, tmp_path, kafka_bootstrap, request.getfixturevalue(server), SEED)


on_both = pytest.mark.parametrize("server", ["milvus_uri", "milvus_lite_uri"])


@on_both
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(len(SERIES)))
def test_a_crash_at_any_point_loses_nothing_and_leaves_nothing(open_site: OpenSite, number: int) -> None:
    with open_site() as site:
        _crash_repeatedly(site, SERIES[number], random.Random(SEED * 100 + number))


@on_both
@pytest.mark.timeout(600)
@pytest.mark.parametrize("point", REVOKE_POINTS)
def test_a_crash_while_another_worker_joins_loses_nothing_and_leaves_nothing(open_site: OpenSite, point: str) -> None:
    with open_site(partitions=4) as site:
        _crash_when_another_joins(site, point, Load(SEED * 100 + REVOKE_POINTS.index(point), 4))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("server", ["milvus_uri"])
def test_a_crash_of_a_replay_loses_nothing_and_leaves_nothing(open_site: OpenSite) -> None:
    with open_site() as site:
        _crash_replays(site, random.Random(SEED))


def _crash_repeatedly(site: CrashSite, points: dict[str, int], chance: random.Random) -> None:
    load = Load(chance.randrange(2**32), 2)
    for name, most in points.items():
        point = f"{name}:{chance.randint(1, most)}"
        site.publish(load.next_records(RECORDS))
        site.crash(point)
        site.expect_prefix(point)
    site.finish()
    assert site.expect_exact().stored_rows > 0


def _crash_when_another_joins(site: CrashSite, point: str, load: Load) -> None:
    site.publish(load.next_records(RECORDS))
    with running(site.arguments("ingest"), site.folder / f"{site.name}-first.log", failing_at(point)) as first:
        eventually(lambda: "batch.written" in first.errors(), within=60, what=site.about("work of the first worker"))
        with running(site.arguments("ingest"), site.folder / f"{site.name}-second.log"):
            for _ in range(300):  # there is always something under way
                site.publish(load.next_records(10))
                with suppress(subprocess.TimeoutExpired):
                    first.process.wait(0.2)
                    break
        assert first.process.poll() == EXIT_CODE, site.about(f"{point} was not reached: {first.errors()}")
    site.expel()
    site.expect_prefix(point)
    site.finish()
    site.expect_exact()


def _crash_replays(site: CrashSite, chance: random.Random) -> None:
    site.publish(Load(chance.randrange(2**32), 2).next_records(4 * RECORDS))
    site.finish()
    into = f"{site.name}_again"
    options = ("--from", "2020-01-01", "--to", "2099-01-01", "--into", into, "--set", "milvus.durability=ack")
    plan = json.loads(site.run("replay", *options, "--dry-run", "--json").stdout)
    for name, most in REPLAY_POINTS.items():
        point = f"{name}:{chance.randint(1, most)}"
        site.crash(point, *options, command="replay")
        site.expect_prefix(point, group=plan["group"], collection=into)
    done = site.run("replay", *options)
    assert done.returncode == 0, site.about(done.stderr)
    site.expect_exact(collection=into)
    site.expect_exact()


def test_nothing_is_committed_before_a_flush_has_ended(
    kafka_bootstrap: str, milvus_lite_uri: str, tmp_path: Path
) -> None:
    with crash_site(tmp_path, kafka_bootstrap, milvus_lite_uri, SEED) as site:
        site.publish([record for record in Load(SEED, 2).next_records(RECORDS) if not record.poison])
        # A commit is due every second: it would come long before the first flush.
        site.crash("flushed:1", "--set", "milvus.flush_interval=4s")
        assert {max(0, committed) for committed, _ in site.offsets().values()} == {0}, site.about("committed too early")
        site.expect_prefix("flushed")
