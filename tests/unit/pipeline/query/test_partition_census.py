"""The census of Milvus partitions: order, states, and the time budget of its counts."""

import pytest

from pipeline.errors import NotFound, Unavailable
from pipeline.query import PartitionCensus
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.search import COLLECTION, Clock, Library


def counts(milvus: FakeMilvus) -> int:
    return sum(operation == "count" for operation, _, _ in milvus.calls)


def rows(census: PartitionCensus) -> dict[str, int | None]:
    return {state.name: state.rows for state in census.read()}


def test_partitions_with_their_rows_the_earliest_first(milvus: FakeMilvus, library: Library) -> None:
    for day, count in (("2026-11-22", 2), ("2026-11-20", 1)):
        for number in range(count):
            library.put(f"{day}-{number}", 0.0, day=day)
    first, second = PartitionCensus(milvus, COLLECTION).read()
    assert (first.name, first.rows, first.loaded) == ("d20261120", 1, True)
    assert (second.name, second.rows, second.loaded) == ("d20261122", 2, True)
    assert second.to_ms is not None
    assert first.to_ms is not None
    assert second.from_ms == first.to_ms + 24 * 3_600_000


def test_the_default_partition_is_there_where_it_holds_rows_or_is_alone(milvus: FakeMilvus, library: Library) -> None:
    assert rows(PartitionCensus(milvus, COLLECTION)) == {"_default": 0}
    library.put("a", 0.0)
    assert rows(PartitionCensus(milvus, COLLECTION)) == {"d20261122": 1}
    row = next(iter(milvus.stored(COLLECTION)["d20261122"].values()))
    milvus.upsert(COLLECTION, None, [{**row, "id": "f" * 64}])
    assert rows(PartitionCensus(milvus, COLLECTION)) == {"d20261122": 1, "_default": 1}


def test_what_is_not_loaded_is_not_counted(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0)
    census = PartitionCensus(milvus, COLLECTION)
    assert rows(census) == {"d20261122": 1}
    milvus.release_partitions(COLLECTION, ["d20261122"])
    [state] = census.read()
    assert (state.rows, state.loaded) == (None, False)


def test_a_reading_ends_with_its_budget_and_the_next_goes_on(milvus: FakeMilvus, library: Library) -> None:
    for day in range(10, 20):
        library.put(str(day), 0.0, day=f"2026-11-{day}")
    clock = Clock()

    def takes_a_second(operation: str, collection: str, when: str) -> None:
        if operation == "count" and when == "before":
            clock.now += 1

    milvus.hook = takes_a_second
    census = PartitionCensus(milvus, COLLECTION, budget_s=4, clock=clock)
    first = rows(census)
    assert counts(milvus) == 4
    assert [name for name, count in first.items() if count is not None] == ["d20261117", "d20261118", "d20261119"]
    rows(census)
    assert all(count is not None for count in rows(census).values())
    assert counts(milvus) == 12  # of the default partition, too
    library.put("new", 0.0, day="2026-11-19")
    seen = [rows(census)["d20261119"] for _ in range(3)]
    assert seen[-1] == 2


def test_counts_survive_an_outage(milvus: FakeMilvus, library: Library) -> None:
    library.put("a", 0.0)
    census = PartitionCensus(milvus, COLLECTION)
    census.read()
    milvus.down = True
    with pytest.raises(Unavailable):
        census.read()
    milvus.down = False
    assert rows(census) == {"d20261122": 1}


def test_no_collection_is_an_error(milvus: FakeMilvus) -> None:
    with pytest.raises(NotFound):
        PartitionCensus(milvus, "missing").read()
