import pytest

from pipeline.errors import Unavailable, UsageError
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.schema import documents_spec
from pipeline.store.milvus.api import DEFAULT_PARTITION
from pipeline.store.partitions import MANY_PARTITIONS, MilvusPartitions, reserved_partitions
from tests.support.fakes.milvus import FakeMilvus


def milvus(max_partitions: int = 4096) -> FakeMilvus:
    api = FakeMilvus(max_partitions=max_partitions)
    api.create_collection(documents_spec("docs", dimension=2, index=IndexSettings("FLAT"), stamp={}, bm25=False))
    return api


def near(*names: str) -> dict[str, bool]:
    return dict.fromkeys(names, True)


def far(*names: str) -> dict[str, bool]:
    return dict.fromkeys(names, False)


def asked(api: FakeMilvus, operation: str) -> int:
    return sum(1 for made, _, _ in api.calls if made == operation)


def test_missing_ones_are_created_and_known_ones_not_asked_for_again() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs")
    assert partitions.ensure(near("d20260101", "d20260102", DEFAULT_PARTITION)) == frozenset()
    assert api.partitions("docs") == ["d20260101", "d20260102"]
    before = len(api.calls)
    assert partitions.ensure(near("d20260102", DEFAULT_PARTITION)) == frozenset()
    assert len(api.calls) == before
    assert partitions.known == {"d20260101", "d20260102"}


def test_what_another_worker_made_is_found() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs", 1)
    api.create_partition("docs", "d20260101")
    assert partitions.ensure(near("d20260101")) == frozenset()
    assert asked(api, "create_partition") == 1


def test_wrong_dates_leave_room_for_the_present() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs", 10)
    wrong = [f"y{year}" for year in range(1000, 1010)]
    assert partitions.ensure(far(*wrong)) == {"y1009"}
    assert partitions.ensure({"y1020": False, "d20260101": True}) == {"y1020"}
    assert api.partitions("docs") == ["d20260101", *wrong[:9]]


def test_at_the_limit_the_present_waits_until_there_is_room() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs", 2)
    partitions.ensure(near("d20260101", "d20260102"))
    with pytest.raises(Unavailable, match=r"d20260103, of records of the present.*partitioning\.max_partitions"):
        partitions.ensure(near("d20260102", "d20260103"))
    api.drop_partition("docs", "d20260101")
    assert partitions.ensure(near("d20260103")) == frozenset()
    assert api.partitions("docs") == ["d20260102", "d20260103"]


def test_what_the_present_needs_is_created_before_wrong_dates() -> None:
    partitions = MilvusPartitions(milvus(), "docs", 3)
    assert partitions.ensure({"a": False, "b": False, "z": True}) == {"b"}


@pytest.mark.parametrize(("limit", "reserved"), [(1, 0), (2, 1), (10, 1), (500, 50), (1000, 100), (4096, 100)])
def test_the_reserve_is_a_tenth_up_to_a_hundred(limit: int, reserved: int) -> None:
    assert reserved_partitions(limit) == reserved


def test_room_made_by_retention_is_used() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs", 1)
    partitions.ensure(near("d20260101"))
    api.drop_partition("docs", "d20260101")
    assert partitions.ensure(near("d20260102")) == frozenset()


def test_the_servers_own_maximum_refuses_wrong_dates_and_makes_the_present_wait() -> None:
    partitions = MilvusPartitions(milvus(max_partitions=2), "docs", 1000)
    assert partitions.ensure(far("y1001", "y1002")) == {"y1002"}
    with pytest.raises(Unavailable, match="the server allows no more"):
        partitions.ensure(near("d20260101"))


def test_after_forget_a_dropped_one_is_created_again() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs")
    partitions.ensure(near("d20260101"))
    api.drop_partition("docs", "d20260101")
    assert partitions.ensure(near("d20260101")) == frozenset()
    assert api.partitions("docs") == []
    partitions.forget()
    partitions.ensure(near("d20260101"))
    assert api.partitions("docs") == ["d20260101"]


def test_an_outage_is_no_refusal() -> None:
    api = milvus()
    partitions = MilvusPartitions(api, "docs")
    api.fail_next("create_partition", Unavailable("gone"))
    with pytest.raises(Unavailable):
        partitions.ensure(near("d20260101"))
    assert partitions.ensure(near("d20260101")) == frozenset()
    assert api.partitions("docs") == ["d20260101"]


def test_the_count_is_reported_and_many_are_warned_about_once(capsys: pytest.CaptureFixture[str]) -> None:
    counts: list[int] = []
    partitions = MilvusPartitions(milvus(), "docs", on_count=counts.append)
    partitions.ensure(near(*[f"p{i}" for i in range(MANY_PARTITIONS)]))
    assert "many_partitions" not in capsys.readouterr().out
    partitions.ensure(near("one_more"))
    partitions.ensure(near("and_one"))
    assert capsys.readouterr().out.count("milvus.many_partitions") == 1
    assert counts == [MANY_PARTITIONS, MANY_PARTITIONS + 1, MANY_PARTITIONS + 2]


def test_a_maximum_below_one_is_a_wrong_setting() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        MilvusPartitions(milvus(), "docs", 0)
