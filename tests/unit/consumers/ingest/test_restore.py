"""Rejected records whose documents are between two versions: these get their stored version back first."""

from datetime import timedelta

import pytest

from consumers.dead_letters import decode_dead_letter
from pipeline.embedding import HashEmbedder
from pipeline.errors import RowsRefused
from pipeline.store.writing.ledger.ledger_rows import row_entry
from pipeline.store.writing.protocol.decisions import Entry
from pipeline.telemetry import OUTCOMES
from tests.support.fakes.kafka import FakeBroker
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.power_loss import PowerLoss
from tests.support.rigs.worker import COLLECTION, DEAD_LETTERS, NOON, TOPIC, MarkedNan, Rig, document, running, soon

HOUR = 3_600_000
DAY = 24 * HOUR
LEDGER = f"{COLLECTION}__ledger"
AGE = timedelta(hours=30)
OLD = NOON - DAY
"""Accepted at first (25 hours old), rejected by a worker that starts 10 hours later."""


@pytest.fixture
def broker() -> FakeBroker:
    broker = FakeBroker()
    broker.create_topic(TOPIC, 2)
    broker.create_topic(DEAD_LETTERS, 1)
    return broker


def crashed(broker: FakeBroker, milvus: FakeMilvus) -> None:
    """A worker that ends before the rows of a former version are deleted."""
    milvus.fail_next("delete", RuntimeError("kill -9"), collection=COLLECTION)
    rig = Rig(broker, milvus, max_event_age=AGE)
    rig.start()
    with pytest.raises(RuntimeError, match="kill -9"):
        rig.ended()


def read_all(
    broker: FakeBroker,
    milvus: FakeMilvus,
    *,
    later_h: int = 0,
    embedder: HashEmbedder | None = None,
    accept_gap: bool = False,
) -> Rig:
    rig = Rig(
        broker,
        milvus,
        embedder or HashEmbedder("hash:8"),
        now_ms=NOON + (1 + later_h) * HOUR,
        max_event_age=AGE,
        until_caught_up=True,
        accept_gap=accept_gap,
    )
    rig.start()
    assert rig.ended().clean
    return rig


def entry_of(milvus: FakeMilvus, doc_id: str) -> Entry:
    rows = milvus.stored(LEDGER)["_default"].values()
    return next(row_entry(row) for row in rows if row["doc_id"] == doc_id)


def restored(rig: Rig, outcome: str) -> float:
    return rig.metrics.registry.get_sample_value("ingest_restored_documents_total", {"outcome": outcome}) or 0.0


def counted(rig: Rig) -> float:
    return sum(rig.outcome(outcome) for outcome in OUTCOMES)


def reasons(broker: FakeBroker) -> list[str]:
    return [decode_dead_letter(record).reason for record in broker.read(DEAD_LETTERS)]


def test_a_document_of_several_requests_refused_half_way_is_what_it_was(broker: FakeBroker) -> None:
    broker.produce(TOPIC, document("d", "version one"))
    milvus = FakeMilvus()
    read_all(broker, milvus)
    for name in ("d", "new"):  # some 1,200 rows of 20 kB: more than one request may hold
        text = " ".join(f"word{number}" for number in range(14_000))
        broker.produce(TOPIC, document(name, text, metadata={"large": "x" * 20_000}))
    requests = 0

    def refuse(operation: str, collection: str, when: str) -> None:
        nonlocal requests
        if (operation, collection, when) == ("upsert", COLLECTION, "before"):
            requests += 1
            if requests in (2, 4):
                raise RowsRefused("no")

    milvus.hook = refuse
    rig = read_all(broker, milvus)
    assert requests >= 4
    assert rig.texts() == {"d": ["version one"]}
    assert not entry_of(milvus, "d").pending
    assert entry_of(milvus, "new").state == "deleted"
    assert reasons(broker) == ["row_refused", "row_refused"]
    assert rig.committed() == {0: 3}
    assert (restored(rig, "restored"), restored(rig, "impossible")) == (2, 0)
    assert counted(rig) == 2


def test_without_the_record_of_the_stored_version_the_document_stays_as_it_is(broker: FakeBroker) -> None:
    broker.produce(TOPIC, document("d", "version one"))
    milvus = FakeMilvus()
    read_all(broker, milvus)
    broker.produce(TOPIC, document("d", "version two", event_time=OLD))
    crashed(broker, milvus)
    broker.delete_records(TOPIC, 0, before=1)
    rig = read_all(broker, milvus, later_h=10)
    assert entry_of(milvus, "d").pending
    assert reasons(broker) == ["event_time_too_old"]
    assert rig.committed() == {0: 2}
    assert (restored(rig, "restored"), restored(rig, "impossible")) == (0, 1)
    broker.produce(TOPIC, document("d", "version three"))
    assert read_all(broker, milvus, later_h=10).texts() == {"d": ["version three"]}


def test_a_topic_that_was_created_again_restores_nothing(broker: FakeBroker) -> None:
    broker.produce(TOPIC, document("d", "version one"), partition=1)
    milvus = FakeMilvus()
    read_all(broker, milvus)
    broker.produce(TOPIC, document("d", "version two", event_time=OLD), partition=1)
    crashed(broker, milvus)
    broker.delete_topic(TOPIC)
    broker.create_topic(TOPIC, 2)
    broker.produce(TOPIC, document("other", "not of d"), partition=1)
    broker.produce(TOPIC, document("d", "version two", event_time=OLD), partition=1)
    rig = read_all(broker, milvus, later_h=10, accept_gap=True)
    assert entry_of(milvus, "other").state == "live"
    assert entry_of(milvus, "d").pending
    assert restored(rig, "impossible") == 1


def test_a_model_that_gives_no_vector_for_what_was_begun_restores_the_old_version(broker: FakeBroker) -> None:
    broker.produce(TOPIC, document("d", "version one"))
    milvus = FakeMilvus()
    read_all(broker, milvus)
    broker.produce(TOPIC, document("d", "NAN two", event_time=OLD))
    crashed(broker, milvus)
    while_restored: list[list[str]] = []

    def look(operation: str, collection: str, _: str) -> None:
        if (operation, collection) == ("upsert", COLLECTION):
            while_restored.append(reasons(broker))

    milvus.hook = look
    rig = read_all(broker, milvus, embedder=MarkedNan("hash:8"))
    assert while_restored
    assert not any(while_restored), "a record is a dead letter only when its document is whole again"
    assert rig.texts() == {"d": ["version one"]}
    assert reasons(broker) == ["vector_not_finite"]
    assert rig.committed() == {0: 2}
    assert counted(rig) == 1


@pytest.mark.parametrize("ledger_row", ["the intent", "the row before it"])
def test_a_loss_beside_the_rejection_changes_nothing(broker: FakeBroker, ledger_row: str) -> None:
    broker.produce(TOPIC, document("d", "version one", event_time=OLD))
    milvus = FakeMilvus()
    read_all(broker, milvus)
    power = PowerLoss(milvus)
    broker.produce(TOPIC, document("d", "version two", event_time=OLD))
    milvus.fail_next("upsert", RuntimeError("kill -9"), collection=COLLECTION, applied=True)
    rig = Rig(broker, milvus, max_event_age=AGE)
    rig.start()
    with pytest.raises(RuntimeError, match="kill -9"):
        rig.ended()
    power.strike(lambda place, states: 0 if place[0] == LEDGER and ledger_row != "the intent" else states - 1)
    rig = read_all(broker, milvus, later_h=10)
    assert rig.texts() == {"d": ["version one"]}
    assert not entry_of(milvus, "d").pending
    assert reasons(broker) == ["event_time_too_old"]


def test_a_rejected_record_that_nobody_can_have_begun_costs_no_query(broker: FakeBroker) -> None:
    broker.produce(TOPIC, document("d", "version one"))
    milvus = FakeMilvus()
    with running(Rig(broker, milvus, max_event_age=AGE, now_ms=NOON + 11 * HOUR)) as rig:
        soon(lambda: rig.committed() == {0: 1} and not rig.bounds.unended)
        milvus.calls.clear()
        broker.produce(TOPIC, document("d", "version two", event_time=OLD))
        soon(lambda: rig.committed() == {0: 2})
    assert reasons(broker) == ["event_time_too_old"]
    assert [call for call in milvus.calls if call[0] == "query" and call[1] != COLLECTION] == []
