"""Replays on real Kafka and Milvus: what they write, what they leave alone, and that they resume."""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from kafka.admin import KafkaAdminClient

from consumers.kafka import GroupWatch, JobMembership, KafkaSettings, forget_group
from consumers.replay import ReplaySource
from consumers.replay.range import ReplaySpan, replay_span
from pipeline.errors import OffsetsLost
from tests.support.milvus import milvus_client
from tests.support.names import unique
from tests.support.oracle.observed import committed_and_end, read_all, stored_documents
from tests.support.oracle.stored import Verdict, expected, judge_documents
from tests.support.processes import Running, running
from tests.support.rigs.kafka import Member, RealRig
from tests.support.rigs.load import Load, Sent
from tests.support.rigs.site import Site, topics, write_config
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers
RECORDS, PARTITIONS = 300, 2
STEP_MS = 1_000
BASE_MS = 1_795_000_000_000
"""Kafka timestamp of the first record; the others follow a second apart."""


@dataclass(frozen=True)
class ReplaySite(Site):
    """A topic with timestamped records that the live group has ingested to its end."""

    sent: list[Sent]

    def ingest(self, *options: str) -> None:
        self.command("ingest", "--until-caught-up", *options)

    def replay(self, first: int, last: int, *options: str, code: int = 0) -> dict[str, Any]:
        """Replay the records number `first` to before `last`; the summary (or plan)."""
        done = self.command("replay", *span(first, last), "--json", *options, code=code)
        result: dict[str, Any] = json.loads(done.stdout) if code == 0 else {"stderr": done.stderr}
        return result

    def messages(self, first: int = 0, last: int = RECORDS) -> list[Any]:
        """What an independent client reads of the range."""
        times = BASE_MS + first * STEP_MS, BASE_MS + last * STEP_MS
        return [m for m in read_all(self.kafka, self.name) if times[0] <= m.timestamp()[1] < times[1]]

    def live_offsets(self) -> dict[int, tuple[int, int]]:
        return committed_and_end(self.kafka, self.name, self.name)

    def rows(self, collection: str) -> list[str]:
        """Every row of a collection with all its fields, in an order of its own."""
        with closing(milvus_client(self.milvus)) as client:
            found = client.query(
                collection, filter='id != ""', output_fields=["*"], consistency_level="Strong", limit=16_000
            )
            return sorted(json.dumps(row, sort_keys=True, default=str) for row in found)

    def differences(self, collection: str, messages: list[Any]) -> dict[str, list[str]]:
        with closing(milvus_client(self.milvus)) as client:
            stored = stored_documents(client, collection)
        verdict = Verdict()
        judge_documents(expected(messages), stored, verdict)
        return verdict.found


def span(first: int, last: int) -> list[str]:
    at = [datetime.fromtimestamp((BASE_MS + number * STEP_MS) / 1000, UTC).isoformat() for number in (first, last)]
    return ["--from", at[0], "--to", at[1]]


def groups(kafka: str, name: str) -> set[str]:
    """The consumer groups of one site."""
    with closing(KafkaAdminClient(bootstrap_servers=kafka)) as admin:
        return {group["group_id"] for group in admin.list_groups() if group["group_id"].startswith(name)}


@contextmanager
def site(folder: Path, kafka: str, milvus: str, records: int, **sections: Mapping[str, Any]) -> Iterator[ReplaySite]:
    name = unique("replay")
    config = write_config(
        folder / "config.yaml",
        name,
        kafka,
        milvus,
        {"chunking": {"max_tokens": 48, "overlap": 8}, "batch": {"max_records": 100}, **sections},
    )
    made = ReplaySite(name, config, kafka, milvus, Load(5, PARTITIONS).next_records(records))
    with topics(made, PARTITIONS):
        _produce(kafka, name, made.sent)
        yield made


def _produce(kafka: str, topic: str, records: list[Sent]) -> None:
    producer = Producer({"bootstrap.servers": kafka, "linger.ms": 5})
    for number, record in enumerate(records):
        producer.produce(topic, record.value, record.key, headers=record.headers, timestamp=BASE_MS + number * STEP_MS)
    assert producer.flush(30) == 0


@pytest.fixture(scope="module")
def live(kafka_bootstrap: str, milvus_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplaySite]:
    with site(tmp_path_factory.mktemp("replay"), kafka_bootstrap, milvus_uri, RECORDS) as made:
        made.ingest()
        yield made


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_dry_run_reports_exactly_what_is_there_and_changes_nothing(live: ReplaySite) -> None:
    before = live.rows(live.name), live.live_offsets(), groups(live.kafka, live.name)
    plan = live.replay(100, 200, "--dry-run", "--into", f"{live.name}_dry")
    wanted = live.messages(100, 200)
    by_partition = Counter(message.partition() for message in wanted)
    assert {each["partition"]: each["records"] for each in plan["partitions"]} == by_partition
    assert plan["records"] == len(wanted) == 100
    size = sum(len(m.key() or b"") + len(m.value() or b"") for m in wanted)
    assert 0.5 * size < plan["estimated_bytes"] < 2 * size
    assert plan["estimated_chunks"] >= len(expected(wanted).documents)
    assert (plan["collection"], plan["live"], plan["resumed"], plan["warnings"]) == (
        f"{live.name}_dry",
        False,
        False,
        [],
    )
    assert (live.rows(live.name), live.live_offsets(), groups(live.kafka, live.name)) == before
    with closing(milvus_client(live.milvus)) as client:
        assert not client.has_collection(f"{live.name}_dry")
    shown = live.command("replay", *span(100, 200), "--dry-run").stdout
    assert f"{live.name}/0" in shown
    assert "in all" in shown


def test_a_replay_into_the_live_collection_changes_nothing(live: ReplaySite) -> None:
    before = [live.rows(live.name), live.rows(f"{live.name}__ledger")]
    offsets, letters, known = (
        live.live_offsets(),
        len(read_all(live.kafka, f"{live.name}.dlq")),
        groups(live.kafka, live.name),
    )
    done = live.replay(100, 200)
    assert done["finished"] is True
    assert (done["records"], done["written"], done["deleted"]) == (100, 0, 0)
    assert sum(done[outcome] for outcome in ("unchanged", "stale", "folded", "rejected")) == 100
    assert done["unchanged"] > 0
    assert done["stale"] > 0
    assert done["rejected"] == len(expected(live.messages(100, 200)).poison) > 0
    assert [live.rows(live.name), live.rows(f"{live.name}__ledger")] == before
    assert live.live_offsets() == offsets
    assert all(committed == end for committed, end in offsets.values())
    assert len(read_all(live.kafka, f"{live.name}.dlq")) == letters
    assert groups(live.kafka, live.name) == known, "a finished replay leaves no group behind"


def test_a_replay_into_another_collection_holds_exactly_the_range(live: ReplaySite) -> None:
    other = f"{live.name}_other"
    before, offsets = live.rows(live.name), live.live_offsets()
    done = live.replay(50, 250, "--into", other)
    assert (done["collection"], done["records"], done["finished"]) == (other, 200, True)
    assert live.differences(other, live.messages(50, 250)) == {}
    first = live.rows(other)
    again = live.replay(50, 250, "--into", other)
    assert (again["records"], again["written"], again["deleted"]) == (200, 0, 0)
    assert (live.rows(other), live.rows(live.name), live.live_offsets()) == (first, before, offsets)


def test_a_change_is_refused_beside_live_workers_and_made_without_them(live: ReplaySite, tmp_path: Path) -> None:
    other_chunks = ("--set", "chunking.max_tokens=24")
    with running(live.arguments("ingest"), tmp_path / "live.log") as worker:
        eventually(lambda: "kafka.assigned" in worker.errors(), within=60, what="the live worker")
        before = live.rows(live.name)
        refused = live.replay(0, RECORDS, *other_chunks, code=2)
        assert "Stop the workers and start this replay again" in refused["stderr"]
        assert live.rows(live.name) == before
        assert live.replay(0, RECORDS)["written"] == 0, "what changes nothing runs beside them"
        assert worker.end(signal.SIGTERM) == 0
    done = live.replay(0, RECORDS, *other_chunks)
    assert done["written"] > 0
    assert live.rows(live.name) != before
    assert live.differences(live.name, live.messages()) == {}


def test_a_killed_replay_and_a_stopped_one_resume_and_end_exact(
    kafka_bootstrap: str, milvus_uri: str, tmp_path: Path
) -> None:
    small = {"max_records": 5, "buffer_bytes": "8KiB"}
    with site(tmp_path, kafka_bootstrap, milvus_uri, 700, batch=small) as made:
        options = ["--into", f"{made.name}_again", *span(0, 660), "--json", "--set", "milvus.durability=ack"]
        plan = json.loads(made.command("replay", *options, "--dry-run").stdout)
        total = plan["records"]

        def begin(log: str, *more: str) -> Any:
            return running(made.arguments("replay", *options, *more), tmp_path / log)

        def done() -> int:
            offsets = committed_and_end(made.kafka, plan["group"], made.name)
            return sum(max(0, committed) for committed, _ in offsets.values())

        def further(worker: Running, than: int) -> int:
            reached = eventually(lambda: done() > than and done(), within=60, what=worker.errors()[-2000:])
            assert reached < total, "it was too quick to be interrupted"
            return reached

        assert done() == 0
        with begin("killed.log") as worker:
            at = further(worker, 0)
            worker.end(signal.SIGKILL)
        assert json.loads(made.command("replay", *options, "--dry-run").stdout)["resumed"] is True
        with begin("stopped.log") as worker:
            further(worker, at)
            assert worker.end(signal.SIGTERM) == 0
        at = done()
        with begin("job.log", "--must-finish") as worker:
            further(worker, at)
            assert worker.end(signal.SIGTERM) == 1
        left = total - done()
        last = json.loads(made.command("replay", *options).stdout)
        assert last["finished"] is True
        assert last["records"] == left < total
        assert made.differences(f"{made.name}_again", made.messages(0, 660)) == {}
        assert made.name not in groups(made.kafka, made.name), "nobody joined or committed for the live group"


@contextmanager
def _slow_replay(made: ReplaySite, folder: Path, *options: str) -> Iterator[Running]:
    """A replay that has read something and is far from its end."""
    with running(made.arguments("replay", *options, "--rate", "3"), folder / "slow.log") as slow:
        eventually(lambda: "batch.written" in slow.errors(), within=90, what="the first batch")
        yield slow


def test_a_replay_into_a_collection_that_other_workers_fill_is_refused(live: ReplaySite) -> None:
    before = live.rows(live.name)
    elsewhere = ["--set", f"milvus.collection={live.name}_x", "--into", live.name]
    refused = live.replay(0, RECORDS, *elsewhere, code=2)
    assert f"the workers of group {live.name} fill '{live.name}'" in refused["stderr"]
    refused = live.replay(0, RECORDS, *elsewhere, "--set", f"kafka.group_id={live.name}-x", code=4)
    assert f"group {live.name}-x does not fill it, other groups do: {live.name}" in refused["stderr"]
    assert live.rows(live.name) == before


def test_one_replay_at_a_time_writes_a_collection_and_a_killed_one_is_followed_by_the_next(
    kafka_bootstrap: str, milvus_uri: str, tmp_path: Path
) -> None:
    with site(tmp_path, kafka_bootstrap, milvus_uri, RECORDS, batch={"max_records": 5}) as made:
        options = [*span(0, RECORDS), "--into", f"{made.name}_again", "--json"]
        with _slow_replay(made, tmp_path, *options) as slow:
            refused = made.command("replay", *options, code=1)
            assert f"holds the collection {made.name}_again" in refused.stderr
            assert f"the replay of process {slow.process.pid} on" in refused.stderr
            assert refused.stdout == ""
            other = made.command("replay", *options, "--dry-run")
            assert json.loads(other.stdout)["records"] > 0, "a dry run joins nothing"
            adopted = ["--adopt", "--set", f"milvus.collection={made.name}_again"]
            assert "start with --adopt when it has ended" in made.command("ingest", *adopted, code=2).stderr
            assert slow.process.poll() is None
            slow.end(signal.SIGKILL)
        done = json.loads(made.command("replay", *options).stdout)
        assert done["finished"] is True
        assert made.differences(f"{made.name}_again", made.messages()) == {}
        assert groups(made.kafka, made.name) == set()


def test_a_replay_that_was_stopped_for_longer_than_its_session_writes_nothing_more(
    kafka_bootstrap: str, milvus_uri: str, tmp_path: Path
) -> None:
    with site(tmp_path, kafka_bootstrap, milvus_uri, RECORDS, batch={"max_records": 5}) as made:
        options = [*span(0, RECORDS), "--into", f"{made.name}_again", "--json"]
        with _slow_replay(made, tmp_path, *options) as slow:
            slow.process.send_signal(signal.SIGSTOP)
            done = json.loads(made.command("replay", *options).stdout)
            assert done["finished"] is True
            before = len(slow.errors())
            stored = [made.rows(f"{made.name}_again"), made.rows(f"{made.name}_again__ledger")]
            slow.process.send_signal(signal.SIGCONT)
            assert slow.process.wait(60) == 3
            assert "another job may write the collection" in slow.errors()[before:]
            assert [made.rows(f"{made.name}_again"), made.rows(f"{made.name}_again__ledger")] == stored
        assert made.differences(f"{made.name}_again", made.messages()) == {}


@pytest.mark.parametrize(
    ("times", "problem"),
    [
        (("2026-11-22", "2026-11-22"), "is empty"),
        (("2026-11-22", "2026-11-21"), "ends before it begins"),
        (("noon", "2026-11-21"), "--from 'noon' is not an RFC 3339 time"),
    ],
)
def test_a_bad_range_exits_2(live: ReplaySite, times: tuple[str, str], problem: str) -> None:
    done = live.command("replay", "--from", times[0], "--to", times[1], code=2)
    assert problem in done.stderr
    assert done.stdout == ""


def test_a_range_without_records_is_done_at_once(live: ReplaySite) -> None:
    done = live.replay(RECORDS, RECORDS + 10)
    assert (done["records"], done["finished"]) == (0, True)


# --- the source ------------------------------------------------------------------------------------------------------


@pytest.fixture
def rig(kafka_bootstrap: str) -> Iterator[RealRig]:
    real = RealRig(kafka_bootstrap)
    yield real
    real.close()


def _fill(rig: RealRig, topic: str, partition: int, count: int) -> None:
    for number in range(count):
        rig.produce(topic, b"%d" % number, partition=partition, timestamp_ms=BASE_MS + number)
    rig.flush()


def _span(settings: KafkaSettings, first: int, last: int, *, behind: bool = False) -> ReplaySpan:
    group = f"{settings.group_id}.replay"
    return replay_span(settings, BASE_MS + first, BASE_MS + last, group, behind_group=behind)


@contextmanager
def _reading(
    settings: KafkaSettings, found: ReplaySpan, rate: float | None = None
) -> Iterator[tuple[Member, ReplaySource]]:
    with closing(JobMembership(settings, "docs", "replay")) as job:
        job.join()
        source = ReplaySource(settings, found, job, rate=rate)
        try:
            yield Member(source), source
        finally:
            source.close(5)


def _read_out(member: Member, source: ReplaySource) -> list[tuple[int, int]]:
    def at_the_end() -> bool:
        member.poll()
        return source.exhausted

    eventually(at_the_end, every=0, what="the end of the range")
    assert [member.poll(0.05) for _ in range(3)] == [[]] * 3
    return sorted((r.position.partition, r.position.offset) for r in member.records)


def test_a_rate_is_kept_and_nothing_is_left_out(rig: RealRig) -> None:
    topic = rig.topic(2)
    for partition in range(2):
        _fill(rig, topic, partition, 150)
    settings = rig.settings(topic)
    with _reading(settings, _span(settings, 0, 150), rate=100.0) as (member, source):
        began = time.monotonic()
        assert len(_read_out(member, source)) == 300
        assert time.monotonic() - began > 1.5, "300 records at 100 a second, one second's worth in advance"


def test_exactly_the_range_is_handed_on_also_when_paused_and_resumed(rig: RealRig) -> None:
    topic = rig.topic(3)
    settings = rig.settings(topic, max_poll_records=70)
    for partition, count in enumerate((400, 900, 100)):
        _fill(rig, topic, partition, count)
    found = _span(settings, 120, 650)
    assert {name[1]: (r.start, r.end) for name, r in found.ranges.items()} == {
        0: (120, 400),
        1: (120, 650),
        2: (100, 100),
    }
    with _reading(settings, found) as (member, source):
        assert member.positions == {(topic, 0): 120, (topic, 1): 120}
        while not source.exhausted:
            source.pause()
            assert member.poll(0.01) == []
            source.resume()
            member.poll(0.2)
        offsets = _read_out(member, source)
        assert {at.position for at in source.lag().values()} == {400, 650}
    assert offsets == [(0, n) for n in range(120, 400)] + [(1, n) for n in range(120, 650)]


def test_what_was_committed_is_kept_in_the_replays_own_group(rig: RealRig) -> None:
    topic = rig.topic()
    settings = rig.settings(topic)
    own = f"{settings.group_id}.replay"
    _fill(rig, topic, 0, 20)
    with _reading(settings, _span(settings, 5, 15)) as (member, _):
        member.finish(member.read(10)[:4])
        assert rig.committed(own) == {}
        assert member.commit()
    assert rig.committed(own) == {(topic, 0): 9}
    assert rig.committed(settings.group_id) == {}
    resumed = _span(settings, 5, 15)
    assert (resumed.resumed, resumed.ranges[topic, 0].position) == (True, 9)
    with _reading(settings, resumed) as (member, source):
        assert _read_out(member, source) == [(0, n) for n in range(9, 15)]
    forget_group(settings, own)
    assert _span(settings, 5, 15).ranges[topic, 0].position == 5
    forget_group(settings, own)


def test_a_range_that_ends_in_aborted_and_open_transactions_ends(rig: RealRig, kafka_bootstrap: str) -> None:
    topic = rig.topic()
    settings = rig.settings(topic)
    _fill(rig, topic, 0, 5)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "transactional.id": topic})
    producer.init_transactions(10)
    for end in (producer.abort_transaction, None):
        producer.begin_transaction()
        producer.produce(topic, b"never published", timestamp=BASE_MS + 6)
        producer.flush(10)
        if end is not None:
            end(10)
    found = _span(settings, 0, 10**12)
    assert found.ranges[topic, 0].end == 7, "five records, an aborted one and its marker; the open one is not readable"
    with _reading(settings, found) as (member, source):
        assert _read_out(member, source) == [(0, n) for n in range(5)]
    producer.abort_transaction(10)


def test_records_the_live_group_has_not_committed_are_left_to_it(rig: RealRig) -> None:
    topic = rig.topic()
    settings = rig.settings(topic)
    _fill(rig, topic, 0, 20)
    assert _span(settings, 5, 15, behind=True).ranges[topic, 0].end == 15, "no live group has ever read the topic"
    live_source = rig.source(settings)
    member = Member(live_source)
    member.finish(member.read(20)[:8])
    assert member.commit()
    with closing(GroupWatch(settings)) as watch:
        assert watch.active()
        found = _span(settings, 5, 15, behind=True).ranges[topic, 0]
        assert (found.start, found.end, found.left_to_group) == (5, 8, 7)
        assert _span(settings, 10, 15, behind=True).ranges[topic, 0].records == 0
        live_source.close(5)
        eventually(lambda: not watch.active())


def test_expired_records_are_reported_before_the_start_and_stop_a_resume(rig: RealRig) -> None:
    topic = rig.topic()
    settings = rig.settings(topic)
    _fill(rig, topic, 0, 20)
    with _reading(settings, _span(settings, 0, 20)) as (member, _):
        member.finish(member.read(20)[:4])
        assert member.commit()
    rig.delete_records(topic, 0, 10)
    with pytest.raises(OffsetsLost, match="begins at 10: 6 offsets are gone"):
        _span(settings, 0, 20)
    forget_group(settings, f"{settings.group_id}.replay")
    found = _span(settings, 0, 20)
    assert found.ranges[topic, 0].cut_short
    assert not _span(settings, 12, 20).ranges[topic, 0].cut_short
    rig.delete_records(topic, 0, 15)
    with _reading(settings, found) as (member, _), pytest.raises(OffsetsLost, match=f"{topic}/0: 5 from 10 on"):
        eventually(member.poll, within=10)


def test_a_recreated_topic_stops_the_replay(rig: RealRig) -> None:
    topic = rig.topic()
    settings = rig.settings(topic)
    _fill(rig, topic, 0, 20)
    with _reading(settings, _span(settings, 0, 20)) as (member, source):
        member.read(20)
        rig.recreate(topic)
        _fill(rig, topic, 0, 30)
        with pytest.raises(OffsetsLost, match="recreated"):
            eventually(lambda: source.lag() and member.poll(0.1), within=15)


def test_a_replay_does_not_go_on_in_a_collection_that_was_dropped(
    kafka_bootstrap: str, milvus_uri: str, tmp_path: Path
) -> None:
    with site(tmp_path, kafka_bootstrap, milvus_uri, RECORDS, batch={"max_records": 5}) as made:
        options = [*span(0, RECORDS), "--into", f"{made.name}_again", "--json", "--set", "milvus.durability=ack"]
        group = json.loads(made.command("replay", *options, "--dry-run").stdout)["group"]

        def read() -> bool:
            return any(at > 0 for at, _ in committed_and_end(made.kafka, group, made.name).values())

        with _slow_replay(made, tmp_path, *options) as slow:
            eventually(read, within=60, what="the first commit")
            slow.end(signal.SIGKILL)
        made.command("collections drop", f"{made.name}_again", "--yes")
        refused = made.command("replay", *options, code=4)
        assert f"--delete --group {group}" in refused.stderr
        forget_group(KafkaSettings(made.kafka, (made.name,), made.name), group)
        assert json.loads(made.command("replay", *options).stdout)["finished"] is True
        assert made.differences(f"{made.name}_again", made.messages()) == {}
