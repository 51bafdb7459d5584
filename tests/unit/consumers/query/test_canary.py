"""The canary: published, found, deleted; what fails is counted; and where it cannot be, it is refused."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumers.config import Settings, load_settings
from consumers.query.canary import Canary, CanaryRecords
from consumers.wiring.canary import canary
from consumers.wiring.documents import decoder
from pipeline.errors import Unavailable, UsageError
from pipeline.intake import RecordMapping
from pipeline.query import is_canary
from pipeline.records import Delete, Position, Put, SourceRecord
from pipeline.telemetry import QueryMetrics
from tests.support.fakes.milvus import FakeMilvus
from tests.support.waiting import eventually

HERE = "kafka.bootstrap_servers=fake:9092"


class Topic:
    """Takes records; `refused`: how many of the next are not taken."""

    def __init__(self) -> None:
        self.records: list[tuple[str, bytes, bytes | None]] = []
        self.refused = 0
        self.closed = False

    def send(self, topic: str, key: bytes, value: bytes | None) -> int:
        if self.refused:
            self.refused -= 1
            raise Unavailable("the broker is away")
        self.records.append((topic, key, value))
        return 1_000

    def close(self) -> None:
        self.closed = True


class Site:
    def __init__(self, *, interval_s: float = 60.0, mapping: RecordMapping | None = None) -> None:
        self.topic = Topic()
        self.registry = CollectorRegistry()
        self.asked: list[tuple[str, str | None, int]] = []
        self.stored = threading.Event()
        self.error: Exception | None = None
        self.left: list[str] = []
        self.canary = Canary(
            CanaryRecords(mapping or RecordMapping()),
            self.topic,
            "documents",
            visible=self.visible,
            leftovers=lambda: self.left,
            metrics=QueryMetrics(self.registry),
            interval_s=interval_s,
        )

    def visible(self, *document: Any) -> bool:
        self.asked.append(document)
        if self.error is not None:
            raise self.error
        return self.stored.is_set()

    def value(self, name: str) -> float:
        return self.registry.get_sample_value(f"milvus_stream_canary_{name}") or 0.0

    def until(self, probe: Callable[[], object]) -> None:
        eventually(lambda: bool(probe()))


def test_a_canary_is_published_found_and_deleted() -> None:
    site = Site()
    site.canary.start()
    site.until(lambda: len(site.asked) > 2)
    ((topic, key, value),) = site.topic.records
    assert (topic, is_canary(key.decode())) == ("documents", True)
    assert value is not None
    assert set(site.asked) == {(key.decode(), None, 1_000)}
    site.stored.set()
    site.until(lambda: len(site.topic.records) == 2)
    assert site.topic.records[1] == ("documents", key, None)
    site.canary.close()
    assert (site.value("seconds_count"), site.value("failures_total"), site.topic.closed) == (1, 0, True)


def test_what_a_former_process_has_left_is_deleted() -> None:
    site = Site()
    site.left = ["milvus-stream:canary:old"]
    site.stored.set()
    site.canary.start()
    site.until(lambda: len(site.topic.records) == 3)
    site.canary.close()
    assert site.topic.records[1] == ("documents", b"milvus-stream:canary:old", None)


def test_one_that_is_not_found_in_its_interval_is_counted_and_deleted() -> None:
    site = Site(interval_s=0.1)
    site.canary.start()
    site.until(lambda: site.value("failures_total") >= 1)
    site.stored.set()
    site.until(lambda: site.value("seconds_count") >= 1)
    site.canary.close()
    stored, deleted = (
        [key for _, key, value in site.topic.records if (value is None) is gone] for gone in (False, True)
    )
    assert stored == deleted
    assert len(set(stored)) == len(stored) >= 2


def test_an_outage_is_counted_and_what_it_left_is_deleted_later() -> None:
    site = Site(interval_s=0.05)
    site.error = Unavailable("Milvus is away")
    site.stored.set()
    site.canary.start()
    site.until(lambda: site.value("failures_total") >= 1)
    site.topic.refused = 3
    site.error = None
    site.until(lambda: not site.topic.refused and site.value("seconds_count") >= 1)
    site.canary.close()
    stored = {key for _, key, value in site.topic.records if value is not None}
    assert stored <= {key for _, key, value in site.topic.records if value is None}


def test_the_end_deletes_the_canary_under_way_and_counts_no_failure() -> None:
    site = Site()
    site.canary.start()
    site.until(lambda: site.asked)
    site.canary.close()
    assert [value for _, _, value in site.topic.records][1:] == [None]
    assert (site.value("seconds_count"), site.value("failures_total")) == (0, 0)


@pytest.mark.parametrize(
    "record",
    [
        [],
        ["record.format=json"],
        ["record.format=text"],
        ["record.id_field=key", "record.text_field=body", "record.version_field=version"],
        ["record.tenant_field=customer", "record.delete_field=gone", "record.version_field=version"],
    ],
    ids=str,
)
def test_the_records_store_and_delete_one_document(record: list[str]) -> None:
    settings = load_settings(None, {}, record)
    decode = decoder(settings).decode
    records = CanaryRecords(RecordMapping(**settings.record.model_dump()))
    records.check(decoder(settings))

    def operation(value: bytes | None) -> Any:
        return decode(SourceRecord(Position("documents", 0, 1), 5_000, b"milvus-stream:canary:1", value), 5_000)

    put, delete = (
        operation(records.put("milvus-stream:canary:1", 1)),
        operation(records.delete("milvus-stream:canary:1", 2)),
    )
    assert isinstance(put, Put)
    assert isinstance(delete, Delete)
    assert (put.document.doc_id, put.document.tenant) == ("milvus-stream:canary:1", records.tenant)
    assert (delete.doc_id, delete.tenant) == (put.document.doc_id, put.document.tenant)
    assert (put.document.event_time, put.document.metadata) == (5_000, {})
    if put.version is not None:
        assert delete.version is None or delete.version > put.version


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ([], "kafka.bootstrap_servers"),
        ([HERE, "mode=append"], "mode append"),
        ([HERE, "record.tenant_field=customer"], "query.canary"),
    ],
)
def test_where_nothing_could_delete_it_there_is_no_canary(changes: list[str], why: str) -> None:
    settings = load_settings(None, {}, ["query.canary=60s", *changes])
    with (
        pytest.raises(UsageError, match=why),
        canary(settings, FakeMilvus(), QueryMetrics(CollectorRegistry())),
    ):
        pass


@pytest.mark.parametrize("off", ["null", "off", False])
def test_it_is_off_unless_an_interval_is_set(off: object) -> None:
    assert load_settings(None, {}, []).query.canary is None
    assert Settings.model_validate({"query": {"canary": None if off == "null" else off}}).query.canary is None
    with pytest.raises(UsageError, match=r"query\.canary"):
        load_settings(None, {}, ["query.canary=9s"])
