"""Where the freshness of a query worker comes from: which commits count, and whether there is a Kafka."""

from consumers.config import load_settings
from consumers.wiring.freshness import OwnCollection, has_kafka
from pipeline.store import IndexSettings, open_collection
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import Clock


def make(api: FakeMilvus, collection_id: str) -> None:
    more = {"id": collection_id, "rules": {"mode": "upsert"}}
    open_collection(api, "documents", {"name": "test"}, 8, IndexSettings("FLAT"), create=True, more=more)


def test_kafka_is_used_where_it_is_configured() -> None:
    assert not has_kafka(load_settings(None, {}, ["kafka.group_id=g"]))
    assert has_kafka(load_settings(None, {}, ["kafka.bootstrap_servers=localhost:9092"]))
    assert has_kafka(load_settings(None, {"MILVUS_STREAM__KAFKA__BOOTSTRAP_SERVERS": "localhost:9092"}))


def test_commits_for_another_collection_of_that_name_do_not_count() -> None:
    api, clock = FakeMilvus(), Clock()
    make(api, "one")
    own = OwnCollection(api, "documents", clock)
    assert [own.is_it(name) for name in ("", "one", "two")] == [True, True, False]
    api.drop_collection("documents")
    make(api, "two")
    assert not own.is_it("two")
    clock.now += 1.0
    assert [own.is_it(name) for name in ("two", "one")] == [True, False]


def test_without_a_collection_no_named_commit_counts() -> None:
    own = OwnCollection(FakeMilvus(), "documents", Clock())
    assert [own.is_it(name) for name in ("", "one")] == [True, False]
