"""From hits to results."""

from pipeline.query.ranking import rank
from pipeline.store.milvus.api import Hit


def hit(name: str, doc_id: str, score: float, *, offset: int = 1, partition: int = 0, time: int = 0) -> Hit:
    position = {"kafka_topic": "t", "kafka_partition": partition, "kafka_offset": offset}
    return Hit(name, score, {"doc_id": doc_id, "event_time": time, **position})


def ids(hits: list[Hit]) -> list[str]:
    return [found.id for found in hits]


HITS = [hit("a0", "a", 0.9), hit("a1", "a", 0.8), hit("b0", "b", 0.7), hit("a2", "a", 0.6), hit("c0", "c", 0.5)]


def test_the_best_chunk_of_each_document() -> None:
    assert ids(rank(HITS, group_by="doc_id", one_version=True, limit=2)) == ["a0", "b0"]


def test_every_chunk_without_grouping() -> None:
    assert ids(rank(HITS, group_by=None, one_version=True, limit=4)) == ["a0", "a1", "b0", "a2"]


def test_an_id_that_comes_twice_counts_once_with_its_better_score() -> None:
    doubled = [*HITS, hit("b0", "b", 0.1)]
    ranked = rank(doubled, group_by=None, one_version=True, limit=9)
    assert ids(ranked) == ["a0", "a1", "b0", "a2", "c0"]
    assert ranked[2].score == 0.7


def test_the_newest_version_stays_though_an_older_one_is_nearer() -> None:
    moved = [hit("old", "a", 0.9, offset=5, time=9), hit("new1", "a", 0.4, offset=6), hit("new0", "a", 0.3, offset=6)]
    assert ids(rank(moved, group_by=None, one_version=True, limit=9)) == ["new1", "new0"]
    assert ids(rank(moved, group_by="doc_id", one_version=True, limit=9)) == ["new1"]


def test_across_kafka_partitions_the_later_event_time_is_newer() -> None:
    hits = [hit("p0", "a", 0.9, partition=0, offset=99, time=1), hit("p1", "a", 0.8, partition=1, offset=3, time=2)]
    assert ids(rank(hits, group_by=None, one_version=True, limit=9)) == ["p1"]
    assert ids(rank(hits[::-1], group_by=None, one_version=True, limit=9)) == ["p1"]


def test_in_append_mode_every_record_stays() -> None:
    moved = [hit("one", "a", 0.9, offset=5), hit("two", "a", 0.4, offset=6)]
    assert ids(rank(moved, group_by=None, one_version=False, limit=9)) == ["one", "two"]
