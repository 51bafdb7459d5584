"""What a start refuses before a model is loaded: everything but the model is compared with the collection."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from consumers.config import Settings, load_settings
from consumers.kafka import TopicFacts
from consumers.kafka.groups.commits import Commit
from consumers.wiring import start_checks, start_warnings
from consumers.wiring.collection import open_configured
from consumers.wiring.start_checks import check_audit, check_ingest, check_replay, check_search, check_serve
from pipeline.embedding import HashEmbedder
from pipeline.errors import Mismatch, NotFound, Unavailable, UsageError
from pipeline.store import CollectionStamp
from pipeline.store.milvus.api import CollectionSpec
from tests.support.fakes.milvus import FakeMilvus

MODEL = HashEmbedder("hash:8")
FACTS = TopicFacts(1, compacted=False, max_message_bytes=None, retention_ms=1000, broker_time=False)
SPEC = CollectionSpec("documents", "written by others", (), dynamic=True, indexes={})


class Kafka:
    """What the group has committed; every topic exists."""

    def __init__(self) -> None:
        self.commits: dict[tuple[str, int], Commit] = {}
        self.ensured: list[str] = []

    def commit_for(self, collection_id: str) -> None:
        self.commits["docs", 0] = Commit(7, "topic id", collection_id=collection_id)


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    group = Kafka()

    def filled(_: object, collection_id: str) -> bool:
        return any(commit.collection_id == collection_id for commit in group.commits.values())

    def facts(_: object, names: list[str]) -> Mapping[str, TopicFacts]:
        return dict.fromkeys(names, FACTS)

    monkeypatch.setattr(start_checks, "topic_commits", lambda _: group.commits)
    monkeypatch.setattr(start_checks, "check_topics", lambda _: None)
    monkeypatch.setattr(start_checks, "fills", filled)
    monkeypatch.setattr(start_checks, "ensure_dead_letter_topic", lambda _, name, create: group.ensured.append(name))
    monkeypatch.setattr(start_warnings, "topic_facts", facts)
    return group


def settings(*sets: str) -> Settings:
    base = ["kafka.topics=[docs]", "kafka.group_id=g", "kafka.dead_letter_topic=dead", "milvus.index.type=FLAT"]
    return load_settings(None, {}, [*base, "embedding.model=there/is-none", *sets])


def made(api: FakeMilvus, *sets: str) -> CollectionStamp:
    """The collection as a worker with these settings creates it."""
    return open_configured(settings(*sets), api, MODEL)


def test_a_start_creates_the_dead_letter_topic_and_warns_and_creates_no_collection(kafka: Kafka) -> None:
    api = FakeMilvus()
    with capture_logs() as lines:
        check_ingest(settings(), api, adopt=False)
    assert kafka.ensured == ["dead"]
    assert "kafka.dead_letters" in [line["event"] for line in lines]
    assert api.collections() == []


@pytest.mark.parametrize("mode", ["upsert", "append"])
def test_the_own_collection_is_accepted(kafka: Kafka, mode: str) -> None:
    api = FakeMilvus()
    kafka.commit_for(made(api, f"mode={mode}").collection_id)
    check_ingest(settings(f"mode={mode}"), api, adopt=False)
    check_audit(settings(f"mode={mode}"), api)
    check_search(settings(), api)


@pytest.mark.parametrize(
    ("made_with", "configured", "message"),
    [
        ("mode=append", "mode=upsert", "mode is 'append' there and 'upsert' here"),
        ("mode=upsert", "record.id_field=key", "record.id_field is 'id' there and 'key' here"),
        ("milvus.index.metric=L2", "milvus.index.metric=IP", "compares vectors by L2"),
        ("kafka.group_id=other", "kafka.group_id=g", "group g does not fill it"),
    ],
)
def test_a_collection_filled_otherwise_is_refused(kafka: Kafka, made_with: str, configured: str, message: str) -> None:
    api = FakeMilvus()
    made(api, made_with)
    checks: list[Callable[[], object]] = [
        lambda: check_ingest(settings(configured), api, adopt=False),
        lambda: check_replay(settings(configured), settings(configured), api),
        lambda: check_audit(settings(configured), api),
    ]
    for check in checks:
        with pytest.raises(Mismatch, match=message):
            check()
    assert kafka.ensured == []


def test_in_append_mode_the_length_of_chunks_is_compared_only_where_it_is_set(kafka: Kafka) -> None:
    api = FakeMilvus()
    made(api, "mode=append")  # with the model's own length
    check_ingest(settings("mode=append"), api, adopt=False)
    with pytest.raises(Mismatch, match=r"chunking\.max_tokens is 256 there and 64 here"):
        check_ingest(settings("mode=append", "chunking.max_tokens=64"), api, adopt=False)


def test_a_group_that_filled_another_collection_is_refused_before_the_configured_one_is_created(kafka: Kafka) -> None:
    api = FakeMilvus()
    kafka.commit_for("0123456789abcdef")
    with pytest.raises(Mismatch, match=r"docs/0: offset 7 .* another collection than 'documents' \(id 01234567 there"):
        check_ingest(settings(), api, adopt=False)
    assert api.collections() == []
    check_ingest(settings(), api, adopt=True)
    made(api)
    with pytest.raises(Mismatch, match="another collection"):
        check_ingest(settings(), api, adopt=False)


def test_adopt_lets_a_further_group_fill_a_collection_but_not_in_another_mode(kafka: Kafka) -> None:
    api = FakeMilvus()
    made(api, "kafka.group_id=other")
    check_ingest(settings(), api, adopt=True)
    with pytest.raises(Mismatch, match="mode is 'upsert'"):
        check_ingest(settings("mode=append"), api, adopt=True)


def test_a_replay_into_the_collection_that_the_group_fills_is_refused(kafka: Kafka) -> None:
    api = FakeMilvus()
    kafka.commit_for(made(api).collection_id)
    check_replay(settings(), settings(), api)
    with pytest.raises(UsageError, match="without --into"):
        check_replay(settings("milvus.collection=others"), settings(), api)
    check_replay(settings(), settings("milvus.collection=others"), api)  # it is not there yet


def test_a_foreign_collection_is_refused_by_all(kafka: Kafka) -> None:
    api = FakeMilvus()
    made(api)
    described = api.describe("documents")
    assert described is not None
    api.drop_collection("documents")
    api.create_collection(replace(SPEC, fields=described.fields, indexes=described.indexes))
    checks: list[Callable[[], object]] = [
        lambda: check_ingest(settings(), api, adopt=True),
        lambda: check_replay(settings(), settings(), api),
        lambda: check_audit(settings(), api),
        lambda: check_search(settings(), api),
        lambda: check_serve(settings(), api),
    ]
    for check in checks:
        with pytest.raises(Mismatch, match="not made by milvus-stream"):
            check()


def test_without_a_collection_only_a_query_worker_and_those_that_create_it_start(kafka: Kafka) -> None:
    api = FakeMilvus()
    check_serve(settings(), api)
    check_replay(settings(), settings(), api)
    with pytest.raises(Unavailable, match="does not exist yet"):
        check_search(settings(), api)
    with pytest.raises(NotFound, match="there is no collection 'documents'"):
        check_audit(settings(), api)
