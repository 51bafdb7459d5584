"""The worker's loop and the flow behind it, over Kafka and Milvus in memory."""

import json
import threading
import time
from collections.abc import Mapping

import numpy as np
import pytest

from consumers.dead_letters import DeadLetterLimits, decode_dead_letter
from consumers.kafka import KafkaSettings, Lag, suspend_clock
from pipeline.errors import NotFound, TooManyRejected, Unavailable
from pipeline.records import KafkaPartition
from pipeline.store import SweepPolicy
from pipeline.telemetry import OUTCOMES
from tests.support.fakes.kafka import FakeBroker, FakeSource
from tests.support.fakes.milvus import FakeMilvus
from tests.support.log_text import LogText
from tests.support.rigs.kafka import Member
from tests.support.rigs.worker import (
    COLLECTION,
    DEAD_LETTERS,
    GROUP,
    NOON,
    TOPIC,
    Counting,
    MarkedNan,
    Rig,
    document,
    running,
    soon,
)
from tests.support.waiting import eventually


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    broker.create_topic(TOPIC, 2)
    broker.create_topic(DEAD_LETTERS, 1)
    return broker


def test_a_mixture_is_stored_deleted_or_dead_lettered_and_committed(broker: FakeBroker) -> None:
    for number in range(30):
        broker.produce(TOPIC, document(f"d{number}", f"first {number}"), partition=number % 2)
    broker.produce(TOPIC, document("d4", "second"), partition=0)
    broker.produce(TOPIC, None, key=b"d6", partition=0)
    broker.produce(TOPIC, b"{broken", key=b"k", partition=1)
    rig = Rig(broker, until_caught_up=True)
    rig.start()
    summary = rig.ended()

    assert summary.clean
    assert summary.consumed == 33
    assert rig.committed() == {0: 17, 1: 16}
    assert sorted(rig.texts()) == sorted(f"d{number}" for number in range(30) if number != 6)
    assert rig.texts()["d4"] == ["second"]
    (dead_letter,) = broker.read(DEAD_LETTERS)
    assert dead_letter.value == b"{broken"
    outcomes = ("written", "unchanged", "stale", "folded", "deleted", "dead_lettered")
    assert sum(rig.outcome(name) for name in outcomes) == summary.consumed


def test_a_vector_that_is_not_finite_rejects_its_document_only(broker: FakeBroker) -> None:
    for doc_id, text in (("a", "fine"), ("b", "this is NAN"), ("c", "fine too")):
        broker.produce(TOPIC, document(doc_id, text))
    rig = Rig(broker, embedder=MarkedNan("hash:8"), until_caught_up=True)
    rig.start()
    assert rig.ended().clean

    assert sorted(rig.texts()) == ["a", "c"]
    (dead_letter,) = broker.read(DEAD_LETTERS)
    headers = dict(dead_letter.headers)
    assert headers["__connect.errors.stage"] == b"embed"
    assert b"NaN" in (headers["__connect.errors.exception.message"] or b"")
    assert rig.committed() == {0: 3}


def test_what_was_folded_into_a_refused_record_is_stored_all_the_same(broker: FakeBroker) -> None:
    for value in (document("a", "first"), document("a", "second"), document("a", "NAN"), document("a", "NAN again")):
        broker.produce(TOPIC, value)
    broker.produce(TOPIC, document("b", "to be deleted"))
    broker.produce(TOPIC, None, key=b"b")
    broker.produce(TOPIC, document("b", "NAN"))
    broker.produce(TOPIC, document("c", "old"))
    broker.produce(TOPIC, document("c", "NAN"))
    broker.produce(TOPIC, document("x"))  # here the batch ends
    broker.produce(TOPIC, document("c", "new"))
    rig = Rig(broker, embedder=MarkedNan("hash:8"), until_caught_up=True)
    rig.start()
    summary = rig.ended()
    assert summary.clean

    assert rig.texts() == {"a": ["second"], "c": ["new"], "x": ["some words"]}
    assert len(broker.read(DEAD_LETTERS)) == 4
    assert rig.committed() == {0: 11}
    outcomes = ("written", "unchanged", "stale", "folded", "deleted", "dead_lettered")
    assert sum(rig.outcome(name) for name in outcomes) == summary.consumed


def test_what_was_folded_into_a_refused_record_does_not_come_back_over_a_later_delete(broker: FakeBroker) -> None:
    broker.produce(TOPIC, document("k", "good", v=3))
    broker.produce(TOPIC, document("k", "NAN", v=4))
    _end_the_batch(broker)
    broker.produce(TOPIC, None, key=b"k")
    rig = _held_at_the_first_write(broker)
    assert "k" not in rig.texts()
    assert len(broker.read(DEAD_LETTERS)) == 1


def test_a_delete_folded_into_a_refused_record_ends_the_versions_before_it_for_the_next_batch(
    broker: FakeBroker,
) -> None:
    for number in range(10):
        broker.produce(TOPIC, document("k" if not number else f"y{number}", "highest", v=9))
    broker.produce(TOPIC, None, key=b"k")
    broker.produce(TOPIC, document("k", "NAN", v=3))
    _end_the_batch(broker)
    broker.produce(TOPIC, document("k", "again", v=2))
    rig = _held_at_the_first_write(broker)
    assert rig.texts()["k"] == ["again"]
    assert len(broker.read(DEAD_LETTERS)) == 1


def _end_the_batch(broker: FakeBroker) -> None:
    for number in range(8):
        broker.produce(TOPIC, document(f"x{number}", v=1))


def _held_at_the_first_write(broker: FakeBroker) -> Rig:
    """A worker that has read everything when its first batch is written, at the end of its run."""
    milvus, held = FakeMilvus(), threading.Event()
    rig = Rig(broker, milvus, embedder=MarkedNan("hash:8"), version_field="v")
    waiting = threading.Event()

    def hold(operation: str, collection: str, when: str) -> None:
        if (operation, collection, when) == ("upsert", COLLECTION, "before") and not held.is_set():
            waiting.set()
            assert held.wait(10)

    milvus.hook = hold
    records = len(broker.read(TOPIC))
    with running(rig):
        assert waiting.wait(10)
        soon(lambda: rig.flow.unwritten([(TOPIC, 0), (TOPIC, 1)]) == records)
        held.set()
        soon(lambda: sum(rig.committed().values()) == records)
    return rig


def test_nothing_is_committed_before_a_flush_has_finished(broker: FakeBroker) -> None:
    milvus = FakeMilvus()
    flush, allowed = milvus.flush, threading.Event()

    def held_flush(collection: str) -> None:
        allowed.wait(10)
        flush(collection)

    milvus.flush = held_flush  # type: ignore[method-assign]
    broker.produce(TOPIC, document("a"))
    with running(Rig(broker, milvus, durability="flush")) as rig:
        soon(lambda: rig.texts() == {"a": ["some words"]})
        soon(lambda: rig.flow.idle)
        assert rig.committed().get(0, 0) == 0
        allowed.set()
        soon(lambda: rig.committed().get(0) == 1)


def test_an_outage_of_milvus_is_waited_out_without_a_dead_letter(broker: FakeBroker) -> None:
    rig = Rig(broker)
    with running(rig):
        soon(rig.source.assignment)
        rig.milvus.down = True
        broker.produce(TOPIC, document("a"))
        soon(lambda: rig.flow.waiting_reasons)
        assert "milvus" in "".join(rig.worker.ready())
        assert rig.worker.alive() == {}
        assert rig.committed().get(0, 0) == 0
        rig.milvus.down = False
        soon(lambda: rig.committed().get(0) == 1)
        assert rig.worker.ready() == {}
    assert broker.read(DEAD_LETTERS) == []
    assert rig.texts() == {"a": ["some words"]}


def test_at_the_limit_of_milvus_partitions_today_waits_and_a_wrong_date_is_rejected(broker: FakeBroker) -> None:
    rig = Rig(broker, FakeMilvus(max_partitions=2))
    broker.produce(TOPIC, document("a"), timestamp_ms=NOON)
    with running(rig):
        soon(lambda: rig.committed().get(0) == 1)
        broker.produce(TOPIC, document("wrong", event_time="1970-01-01"), timestamp_ms=NOON)
        soon(lambda: rig.committed().get(0) == 2)
        broker.produce(TOPIC, document("b", event_time=NOON - 86_400_000), timestamp_ms=NOON)
        soon(lambda: "d20261117, of records of the present" in str(rig.worker.ready()))
        assert rig.committed().get(0) == 2
        rig.milvus.drop_partition(COLLECTION, "d20261118")
        soon(lambda: rig.committed().get(0) == 3)
        assert rig.worker.ready() == {}
    (rejected,) = (decode_dead_letter(record) for record in broker.read(DEAD_LETTERS))
    assert rejected.reason == "too_many_partitions"
    assert rig.texts() == {"b": ["some words"]}


def test_the_byte_budget_stops_reading_and_goes_on_without_a_loss(broker: FakeBroker) -> None:
    rig = Rig(broker, buffer_bytes=20_000)
    with running(rig):
        soon(rig.source.assignment)
        rig.milvus.gate.clear()
        for number in range(200):
            broker.produce(TOPIC, document(f"d{number}", "x " * 200), partition=number % 2)
        soon(lambda: rig.worker.snapshot().paused)
        snapshot = rig.worker.snapshot()
        assert snapshot.consumed < 200
        assert snapshot.buffered_bytes < 20_000 + 10 * 500
        rig.milvus.gate.set()
        soon(lambda: sum(rig.committed().values()) == 200)
    assert len(rig.texts()) == 200


def test_a_stop_finishes_what_was_read(broker: FakeBroker) -> None:
    for number in range(25):
        broker.produce(TOPIC, document(f"d{number}"))
    rig = Rig(broker, durability="flush")
    rig.start()
    soon(lambda: rig.worker.snapshot().consumed == 25)
    rig.stop.set()
    assert rig.ended().clean
    assert rig.committed() == {0: 25}


@pytest.mark.parametrize("bounded", [False, True])
def test_a_stop_while_milvus_is_away_ends_at_the_deadline_and_commits_nothing(
    broker: FakeBroker, bounded: bool
) -> None:
    rig = Rig(broker, shutdown_s=0.3, until_caught_up=bounded)

    def away(operation: str, collection: str, when: str) -> None:
        if collection != f"{COLLECTION}__marks" and operation != "clock":  # else it would not start
            raise Unavailable("away")

    rig.milvus.hook = away
    broker.produce(TOPIC, document("a"))
    rig.start()
    soon(lambda: rig.flow.waiting_reasons)
    rig.stop.set()
    assert not rig.ended(within=5).clean
    assert rig.committed().get(0, 0) == 0


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_bug_is_logged_without_the_documents(broker: FakeBroker, log_text: LogText, style: str) -> None:
    written = log_text(style)
    broker.produce(TOPIC, document("a", "what nobody else may read"))
    rig = Rig(broker)
    rig.milvus.fail_next("upsert", RuntimeError("a bug"), collection=COLLECTION)
    rig.start()
    with pytest.raises(RuntimeError, match="a bug"):
        rig.ended()
    text = written.getvalue()
    assert text.count("flow.failed") == 1
    assert "a bug" in text
    assert "nobody" not in text
    assert len(text) < 16_000


def test_the_first_error_of_any_stage_ends_the_worker_with_that_error(broker: FakeBroker) -> None:
    rig = Rig(broker)
    rig.milvus.fail_next("upsert", RuntimeError("a bug"))
    for number in range(50):
        broker.produce(TOPIC, document(f"d{number}"))
    rig.start()
    with pytest.raises(RuntimeError, match="a bug"):
        rig.ended()
    assert rig.committed().get(0, 0) == 0


def test_a_collection_dropped_behind_the_workers_back_is_an_error_that_says_so(broker: FakeBroker) -> None:
    rig = Rig(broker)
    rig.milvus.drop_collection(COLLECTION)
    broker.produce(TOPIC, document("a"))
    rig.start()
    with pytest.raises(NotFound, match=COLLECTION):
        rig.ended()


def test_a_write_whose_answer_was_lost_is_repeated_and_leaves_one_row(broker: FakeBroker) -> None:
    rig = Rig(broker, until_caught_up=True)
    rig.milvus.fail_next("upsert", Unavailable("no answer"), applied=True, collection=COLLECTION)
    broker.produce(TOPIC, document("a", "only one"))
    rig.start()
    assert rig.ended().clean
    assert rig.texts() == {"a": ["only one"]}


def test_max_records_commits_exactly_so_many(broker: FakeBroker) -> None:
    for number in range(40):
        broker.produce(TOPIC, document(f"d{number}"))
    rig = Rig(broker, max_records=17)
    rig.start()
    assert rig.ended().consumed == 17
    assert rig.committed() == {0: 17}


def test_an_empty_topic_is_caught_up_at_once(broker: FakeBroker) -> None:
    rig = Rig(broker, until_caught_up=True)
    rig.start()
    assert rig.ended().consumed == 0


def test_dead_letters_that_cannot_be_sent_hold_back_their_offset_only(broker: FakeBroker) -> None:
    broker.produce(TOPIC, document("a"), partition=0)
    broker.produce(TOPIC, b"{", key=b"k", partition=0)
    broker.produce(TOPIC, document("b"), partition=0)
    broker.produce(TOPIC, document("c"), partition=1)
    rig = Rig(broker)
    rig.dead_letters.out_of_order("not authorised")
    with running(rig):
        soon(lambda: rig.committed().get(1) == 1)
        soon(lambda: len(rig.texts()) == 3)
        assert eventually(lambda: rig.committed().get(0)) == 1
        assert "dead letters" in rig.worker.ready()
        rig.dead_letters.out_of_order(None)
        soon(lambda: rig.committed().get(0) == 3)


def test_a_second_worker_takes_its_share_and_nothing_is_lost_or_left_behind(broker: FakeBroker) -> None:
    first = Rig(broker)
    with running(first):
        for number in range(60):
            broker.produce(TOPIC, document(f"d{number}", f"one {number}"), partition=number % 2)
        soon(lambda: first.worker.snapshot().consumed >= 10)
        with running(Rig(broker, first.milvus)) as second:
            soon(lambda: len(second.source.assignment()) == 1)
            soon(lambda: len(first.source.assignment()) == 1)
            for number in range(60):
                broker.produce(TOPIC, document(f"d{number}", f"two {number}"), partition=number % 2)
            soon(lambda: sum(first.committed().values()) == 120)
    assert first.texts() == {f"d{number}": [f"two {number}"] for number in range(60)}


def test_the_lag_of_a_partition_given_away_is_not_shown_any_more(broker: FakeBroker) -> None:
    rig = Rig(broker)
    broker.produce(TOPIC, document("a"), partition=0)
    with running(rig):
        soon(lambda: rig.committed().get(0) == 1)
        rig.worker.observe_lag()
        labels = {"topic": TOPIC, "partition": "0"}
        assert rig.metrics.registry.get_sample_value("ingest_consumer_lag_records", labels) == 0
        rig.worker.on_revoked([(TOPIC, 0)])
        assert rig.metrics.registry.get_sample_value("ingest_consumer_lag_records", labels) is None


def test_a_lag_that_is_not_known_any_more_is_not_shown(broker: FakeBroker) -> None:
    rig = Rig(broker)
    broker.produce(TOPIC, document("a"), partition=0)
    with running(rig):
        soon(lambda: rig.committed().get(0) == 1)
        labels = {"topic": TOPIC, "partition": "0"}
        for age_s, shown in ((0.0, 0.0), (60.0, None), (0.0, 0.0)):
            rig.source.ends_age_s = age_s
            rig.worker.observe_lag()
            assert rig.metrics.registry.get_sample_value("ingest_consumer_lag_records", labels) == shown


def test_while_milvus_is_away_the_metrics_show_what_waits_and_for_how_long(broker: FakeBroker) -> None:
    rig = Rig(broker, buffer_bytes=100)

    def sample(name: str) -> float:
        return rig.metrics.registry.get_sample_value(name) or 0.0

    with running(rig):
        soon(rig.source.assignment)
        rig.milvus.down = True
        for number in range(5):
            broker.produce(TOPIC, document(f"d{number}"), timestamp_ms=int(time.time() * 1000) - 60_000)
        soon(lambda: sample("ingest_buffered_bytes") > 100)
        soon(lambda: sample("ingest_oldest_unwritten_age_seconds") > 60)
        soon(lambda: sample("ingest_backpressure_seconds_total") > 0)
        paused_s = sample("ingest_backpressure_seconds_total")
        soon(lambda: sample("ingest_backpressure_seconds_total") > paused_s)
        rig.milvus.down = False
        soon(lambda: rig.committed().get(0) == 5)
        soon(lambda: sample("ingest_buffered_bytes") == 0 == sample("ingest_oldest_unwritten_age_seconds"))


def test_a_dead_letter_counts_when_it_is_confirmed_and_once(broker: FakeBroker) -> None:
    rig = Rig(broker)

    def counted() -> float:
        return rig.metrics.registry.get_sample_value("ingest_dlq_records_total", {"reason": "invalid_json"}) or 0.0

    broker.produce(TOPIC, b"{")
    rig.dead_letters.out_of_order("no such topic")
    with running(rig):
        soon(lambda: "dead letters" in rig.worker.ready())
        assert counted() == 0
        rig.dead_letters.out_of_order(None)
        soon(lambda: rig.committed().get(0) == 1)
        assert counted() == 1


def test_a_redo_sends_no_dead_letter_again(broker: FakeBroker) -> None:
    def refuse(collection: str) -> None:
        raise Unavailable(f"{collection}: too many flushes")

    first = Rig(broker, durability="flush", shutdown_s=0.1)
    first.milvus.flush = refuse  # type: ignore[method-assign]
    broker.produce(TOPIC, document("a"))
    for _ in range(3):
        broker.produce(TOPIC, b"{")
    with running(first):
        soon(lambda: len(broker.read(DEAD_LETTERS)) == 3)
    assert first.committed().get(0, 0) == 0
    with running(Rig(broker, FakeMilvus())) as second:
        soon(lambda: second.committed().get(0) == 4)
    assert len(broker.read(DEAD_LETTERS)) == 3


def test_a_member_without_a_kafka_partition_is_ready(broker: FakeBroker) -> None:
    first = Rig(broker)
    with running(first), running(Rig(broker, first.milvus)) as second, running(Rig(broker, first.milvus)) as third:
        rigs = (first, second, third)
        soon(lambda: sorted(len(rig.source.assignment()) for rig in rigs) == [0, 1, 1])
        soon(lambda: all(rig.worker.ready() == {} for rig in rigs))


def test_a_member_cut_off_from_kafka_writes_nothing_more_until_it_is_heard_again(broker: FakeBroker) -> None:
    rig = Rig(broker, session_s=1.5)
    broker.produce(TOPIC, document("a"))
    with running(rig):
        soon(lambda: rig.committed().get(0) == 1)
        rig.source.heartbeats = False
        soon(lambda: rig.source.last_heartbeat() + 0.6 < suspend_clock())
        broker.produce(TOPIC, document("b"))
        soon(lambda: "another worker may own" in str(rig.flow.waiting_reasons))
        assert sorted(rig.texts()) == ["a"]
        rig.source.heartbeats = True
        soon(lambda: rig.committed().get(0) == 2)
    assert sorted(rig.texts()) == ["a", "b"]


def test_what_waits_for_milvus_when_it_is_revoked_is_never_written(broker: FakeBroker) -> None:
    rig = Rig(broker)
    away = threading.Event()

    def refuse(operation: str, collection: str, when: str) -> None:
        if away.is_set() and operation == "upsert" and collection == COLLECTION:
            raise Unavailable("away")

    rig.milvus.hook = refuse
    broker.produce(TOPIC, document("a", "stays"), partition=0)
    with running(rig):
        soon(lambda: rig.committed().get(0) == 1)
        away.set()
        broker.produce(TOPIC, document("gone", "one two"), partition=1)
        broker.produce(TOPIC, document("kept", "one two"), partition=0)
        soon(lambda: "write" in rig.flow.waiting_reasons)
        reader = Member(FakeSource(broker, KafkaSettings("fake:9092", (TOPIC,), GROUP)))  # it writes nothing
        soon(lambda: reader.poll() or reader.source.assignment() == {(TOPIC, 1)})
        away.clear()
        soon(lambda: "kept" in rig.texts())
        soon(lambda: rig.flow.idle)
        assert "gone" not in rig.texts()
        assert rig.committed().get(1, 0) == 0


def test_a_partition_is_given_up_only_when_the_last_call_that_writes_it_has_ended(broker: FakeBroker) -> None:
    rig = Rig(broker, shutdown_s=0.1)
    held, entered = threading.Event(), threading.Event()

    def hold(operation: str, collection: str, when: str) -> None:
        if operation == "upsert" and collection == COLLECTION and when == "before" and not held.is_set():
            entered.set()
            held.wait(10)

    broker.produce(TOPIC, document("a"), partition=1)
    with running(rig):
        soon(lambda: rig.committed().get(1) == 1)
        rig.milvus.hook = hold
        broker.produce(TOPIC, document("b"), partition=1)
        assert entered.wait(10)
        reader = Member(FakeSource(broker, KafkaSettings("fake:9092", (TOPIC,), GROUP)))
        soon(lambda: reader.poll() or rig.flow.fenced)
        assert not reader.source.assignment()
        held.set()
        soon(lambda: reader.poll() or reader.source.assignment() == {(TOPIC, 1)})
        assert not rig.flow.writing([(TOPIC, 1)])
        entries = rig.milvus.stored(f"{COLLECTION}__ledger")["_default"].values()
        assert [row["pending"] for row in entries if row["doc_id"] == "b"] == [True], "nothing was sent after it"


def test_a_worker_that_is_cut_off_leaves_the_group_after_its_last_call(broker: FakeBroker) -> None:
    rig = Rig(broker, shutdown_s=0.1)
    held, entered = threading.Event(), threading.Event()

    def hold(operation: str, collection: str, when: str) -> None:
        if operation == "upsert" and collection == COLLECTION and when == "before":
            entered.set()
            held.wait(10)

    rig.milvus.hook = hold
    broker.produce(TOPIC, document("a"))
    rig.start()
    assert entered.wait(10)
    rig.stop.set()
    soon(lambda: rig.flow.fenced)
    assert broker.is_member(GROUP, rig.source)
    held.set()
    assert not rig.ended().clean
    assert not broker.is_member(GROUP, rig.source)
    (entry,) = rig.milvus.stored(f"{COLLECTION}__ledger")["_default"].values()
    assert entry["pending"], "nothing was sent after it"


def test_a_run_has_not_caught_up_while_the_end_of_its_partitions_is_unknown(broker: FakeBroker) -> None:
    for number in range(20):
        broker.produce(TOPIC, document(f"d{number}"), partition=number % 2)
    rig = Rig(broker, until_caught_up=True)
    lag, answers = rig.source.lag, list[Mapping[KafkaPartition, Lag]]()

    def late() -> Mapping[KafkaPartition, Lag]:
        """None at first, then of one Kafka partition only: the broker did not answer in time."""
        lags = {name: of_name for name, of_name in lag().items() if name[1] < len(answers)}
        answers.append(lags)
        return lags

    rig.source.lag = late  # type: ignore[method-assign]
    summary = rig.run_to_its_end()
    assert (summary.consumed, summary.clean) == (20, True)
    assert rig.committed() == {0: 10, 1: 10}
    assert [len(lags) for lags in answers[:3]] == [0, 1, 2]


def test_the_model_embeds_a_text_once_and_never_a_stored_one(broker: FakeBroker) -> None:
    long = [f"Sentence {number} is one of a long text." for number in range(12)]
    embedder = Counting("hash:8")
    broker.produce(TOPIC, document("a", "the same"))
    broker.produce(TOPIC, document("b", "the same"))
    broker.produce(TOPIC, document("long", " ".join(long[:8])))
    with running(Rig(broker, embedder=embedder)) as rig:
        soon(lambda: rig.committed().get(0) == 3)
        assert embedder.texts.count("the same") == 1
        first = list(embedder.texts)
        embedder.texts.clear()

        broker.produce(TOPIC, document("a", "the same", colour="red"))
        broker.produce(TOPIC, json.dumps({"id": "b", "text": "the same", "event_time": NOON - 86_400_000}).encode())
        soon(lambda: rig.committed().get(0) == 5)
        assert embedder.texts == [], "only metadata and time have changed"
        rows = {row["doc_id"]: row for part in rig.milvus.stored(COLLECTION).values() for row in part.values()}
        assert rows["a"]["colour"] == "red"
        assert np.array_equal(rows["a"]["vector"], rows["b"]["vector"])

        broker.produce(TOPIC, document("long", " ".join(long)))
        soon(lambda: rig.committed().get(0) == 6)
        assert embedder.texts
        assert len(set(embedder.texts) & set(first)) == 0, "only what was added is new"


def test_outcomes_add_up_when_deletes_are_settled_already(broker: FakeBroker) -> None:
    rig = Rig(broker, until_caught_up=True)
    for _ in range(3):
        for number in range(12):
            broker.produce(TOPIC, document(f"d{number}", "text"))
            broker.produce(TOPIC, None, key=f"d{number}".encode())
    rig.start()
    assert rig.ended().consumed == 72
    counts = {name: rig.outcome(name) for name in OUTCOMES}
    assert sum(counts.values()) == 72
    assert all(count >= 0 for count in counts.values())
    assert rig.texts() == {}


def test_after_a_topic_was_deleted_and_created_again_the_later_timestamp_is_newer_and_then_the_arrival(
    broker: FakeBroker,
) -> None:
    milvus = FakeMilvus()
    for number in range(3):
        broker.produce(TOPIC, document("a", f"old {number}"), timestamp_ms=NOON)
    broker.produce(TOPIC, document("b", "new"), timestamp_ms=NOON)
    first = Rig(broker, milvus, until_caught_up=True)
    first.start()
    first.ended()
    again = FakeBroker()  # other ids for topics of the same names
    again.create_topic(TOPIC, 1)
    again.create_topic(DEAD_LETTERS, 1)
    again.produce(TOPIC, document("a", "new"), timestamp_ms=NOON)
    again.produce(TOPIC, document("b", "old"), timestamp_ms=NOON - 1)
    second = Rig(again, milvus, until_caught_up=True, accept_gap=True)
    second.start()
    second.ended()
    assert second.texts() == {"a": ["new"], "b": ["new"]}
    assert second.metrics.registry.get_sample_value("ingest_arrival_decided_total") == 1


def test_too_many_rejected_records_stop_the_worker_and_the_next_start_reads_on(broker: FakeBroker) -> None:
    for number in range(40):
        broker.produce(TOPIC, b"{broken" if number >= 12 else document(f"d{number}"))
    rig = Rig(broker, limits=DeadLetterLimits(max_consecutive=15))
    rig.start()
    with pytest.raises(TooManyRejected, match=r"documents/0 .* offsets 12 to 27, invalid_json 16"):
        rig.ended()
    # The batch with the record above the limit (20-29) is not sent at all.
    sent = {decode_dead_letter(dead_letter).offset for dead_letter in broker.read(DEAD_LETTERS)}
    assert sent == set(range(12, 20))
    assert rig.committed().get(0, 0) <= 20

    again = Rig(broker, rig.milvus, limits=DeadLetterLimits(max_consecutive=None), until_caught_up=True)
    again.start()
    assert again.ended().clean
    assert {decode_dead_letter(dead_letter).offset for dead_letter in broker.read(DEAD_LETTERS)} == set(range(12, 40))
    assert len(again.texts()) == 12
    assert again.committed() == {0: 40}


def test_what_the_model_refuses_counts_as_well(broker: FakeBroker) -> None:
    for number in range(40):
        broker.produce(TOPIC, document(f"d{number}", "NAN"))
    rig = Rig(broker, embedder=MarkedNan("hash:8"), limits=DeadLetterLimits(max_consecutive=15))
    rig.start()
    with pytest.raises(TooManyRejected, match="vector_not_finite 16"):
        rig.ended()


def test_old_deletes_are_forgotten_between_batches_and_only_while_the_partition_is_owned(broker: FakeBroker) -> None:
    rig = Rig(broker, sweep=SweepPolicy(retention_s=60, pause_s=0.0, every_s=0.0))
    ledger = f"{COLLECTION}__ledger"
    held, entered = threading.Event(), threading.Event()

    def hold(operation: str, collection: str, when: str) -> None:
        if operation == "delete" and collection == ledger and when == "before" and not held.is_set():
            entered.set()
            held.wait(10)

    broker.produce(TOPIC, document("a"), partition=1)
    with running(rig):
        soon(lambda: rig.committed().get(1) == 1)
        rig.milvus.hook = hold
        broker.produce(TOPIC, None, key=b"a", partition=1, timestamp_ms=NOON - 3_600_000)
        assert entered.wait(10)
        reader = Member(FakeSource(broker, KafkaSettings("fake:9092", (TOPIC,), GROUP)))
        soon(lambda: reader.poll() or rig.flow.fenced)
        assert not reader.source.assignment(), "its last call is waited for"
        held.set()
        soon(lambda: reader.poll() or reader.source.assignment() == {(TOPIC, 1)})
    assert rig.milvus.stored(ledger)["_default"] == {}
    assert rig.metrics.registry.get_sample_value("ingest_tombstones_swept_total") == 1


class Gate:
    """Holds the calls of one operation on one collection until it is opened."""

    def __init__(self, rig: Rig, *call: str) -> None:
        self.entered = threading.Event()
        self._open = threading.Event()
        self._call = call
        rig.milvus.hook = self._hold

    def _hold(self, operation: str, collection: str, when: str) -> None:
        if (operation, collection) == self._call and when == "before" and not self._open.is_set():
            self.entered.set()
            self._open.wait(10)

    def open(self) -> None:
        self._open.set()


def test_a_receipt_of_a_former_assignment_finishes_nothing_that_is_read_again(broker: FakeBroker) -> None:
    milvus = FakeMilvus()
    flush, allowed = milvus.flush, threading.Event()

    def held_flush(collection: str) -> None:
        allowed.wait(10)
        flush(collection)

    milvus.flush = held_flush  # type: ignore[method-assign]
    rig = Rig(broker, milvus, durability="flush", shutdown_s=0.3)
    broker.produce(TOPIC, document("a"))
    rig.start()
    soon(lambda: rig.texts() and rig.flow.idle)

    def refuse(operation: str, collection: str, when: str) -> None:
        if (operation, collection) == ("query", f"{COLLECTION}__ledger"):
            raise Unavailable("away")

    milvus.hook = refuse
    broker.leave(GROUP, rig.source)
    soon(lambda: "plan" in rig.flow.waiting_reasons)  # it is read again, and not finished
    allowed.set()
    soon(lambda: rig.metrics.registry.get_sample_value("ingest_last_durable_timestamp_seconds"))
    rig.stop.set()
    assert not rig.ended().clean
    assert rig.committed() == {}


def test_a_reread_writes_and_commits_everything_once_more(broker: FakeBroker) -> None:
    rig = Rig(broker)
    for number in range(20):
        broker.produce(TOPIC, document(f"d{number}"), partition=number % 2)
    gate = Gate(rig, "upsert", COLLECTION)
    due = threading.Event()

    def reread() -> None:
        if due.is_set():
            due.clear()
            rig.worker.reread()

    rig.dead_letters.check = reread  # type: ignore[method-assign]  # the loop calls it, on its thread
    with running(rig):
        assert gate.entered.wait(10)
        soon(lambda: _read(rig) == 20)
        due.set()
        soon(lambda: _read(rig) == 40)
        assert rig.worker.snapshot().consumed == 20
        assert rig.flow.fenced, "the call under way is the last one of its batch"
        gate.open()
        soon(lambda: rig.committed() == {0: 10, 1: 10})
    assert len(rig.texts()) == 20
    assert rig.metrics.registry.get_sample_value("ingest_rebalances_total", {"event": "assigned"}) == 2


def _read(rig: Rig) -> float:
    """Records read from Kafka, those read again included."""
    name = "ingest_records_consumed_total"
    shares = [{"topic": TOPIC, "partition": str(number)} for number in range(2)]
    return sum(rig.metrics.registry.get_sample_value(name, labels) or 0.0 for labels in shares)
