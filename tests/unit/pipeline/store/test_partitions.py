import pytest

from pipeline.errors import Unavailable, UsageError
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.schema import documents_spec
from pipeline.store.milvus.api import DEFAULT_PARTITION
from pipeline.store.partitions import MANY_PARTITIONS, MilvusPartitions
from tests.support.fakes.milvus import FakeMilvus


def milvus(max_partitions: int = 4096) -> FakeMilvus:
    api = FakeMilvus(max_partitions=max_partitions)
    api.create_collection(documents_spec("docs", dimension=2, index=IndexSettings("FLAT"), stamp={}, bm25=False))
    return api


def asked(api: FakeMilvus, operation: str) -> int:
    return sum(1 for made, _, _ in api.calls if made == operation)


def test_missing_ones_are_created_and_known_ones_not_asked_for_again() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs")
    assert partitions.ensure(["d20260101", "d20260102", DEFAULT_PARTITION]) == frozenset()
    assert api.partitions("docs") == ["d20260101", "d20260102"]
    before = len(api.calls)
    assert partitions.ensure(["d20260102", DEFAULT_PARTITION]) == frozenset()
    assert len(api.calls) == before
    assert partitions.known == {"d20260101", "d20260102"}


def test_what_another_worker_made_is_found() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs", 1)
    api.create_partition("docs", "d20260101")
    assert partitions.ensure(["d20260101"]) == frozenset()
    assert asked(api, "create_partition") == 1


def test_beyond_the_maximum_is_refused_and_the_rest_served() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs", 2)
    assert partitions.ensure(["d20260101", "d20260102", "d20260103"]) == {"d20260103"}
    assert partitions.ensure(["d20260102", "d20260104"]) == {"d20260104"}
    assert api.partitions("docs") == ["d20260101", "d20260102"]


def test_room_made_by_retention_is_used() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs", 1)
    partitions.ensure(["d20260101"])
    api.drop_partition("docs", "d20260101")
    assert partitions.ensure(["d20260102"]) == frozenset()


def test_the_servers_own_maximum_refuses_too() -> None:
    partitions = MilvusPartitions(milvus(max_partitions=2), "docs", 1000)
    assert partitions.ensure(["d20260101", "d20260102"]) == {"d20260102"}


def test_after_forget_a_dropped_one_is_created_again() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs")
    partitions.ensure(["d20260101"])
    api.drop_partition("docs", "d20260101")
    assert partitions.ensure(["d20260101"]) == frozenset()
    assert api.partitions("docs") == []
    partitions.forget()
    partitions.ensure(["d20260101"])
    assert api.partitions("docs") == ["d20260101"]


def test_an_outage_is_no_refusal() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs")
    api.fail_next("create_partition", Unavailable("gone"))
    with pytest.raises(Unavailable):
        partitions.ensure(["d20260101"])
    assert partitions.ensure(["d20260101"]) == frozenset()
    assert api.partitions("docs") == ["d20260101"]


def test_the_count_is_reported_and_many_are_warned_about_once(capsys: pytest.CaptureFixture[str]) -> None:
    counts: list[int] = []
    partitions = MilvusPartitions(milvus(), "docs", on_count=counts.append)
    partitions.ensure([f"p{i}" for i in range(MANY_PARTITIONS)])
    assert "many_partitions" not in capsys.readouterr().out
    partitions.ensure(["one_more"])
    partitions.ensure(["and_one"])
    assert capsys.readouterr().out.count("milvus.many_partitions") == 1
    assert counts == [MANY_PARTITIONS, MANY_PARTITIONS + 1, MANY_PARTITIONS + 2]


def test_a_maximum_below_one_is_a_wrong_setting() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        MilvusPartitions(milvus(), "docs", 0)
