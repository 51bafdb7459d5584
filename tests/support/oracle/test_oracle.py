"""The oracle itself: which version wins, what may be there at which offsets, and the vectors of `hash:N`."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pipeline.embedding import HashEmbedder
from tests.support.oracle.contract import hash_vector
from tests.support.oracle.expected import History, Version, Wanted, belongs, mismatch
from tests.support.oracle.observed import Row
from tests.support.oracle.verdict import Verdict

LOG, OTHER = ("documents", 0), ("documents", 1)


def version(offset: int, number: int | None = None, *, log: tuple[str, int] = LOG, deletes: bool = False) -> Version:
    return Version((*log, offset), None if deletes else Wanted("a", f"text {offset}", 0, {}), number)


def offsets(versions: Sequence[Version]) -> list[int]:
    return [each.offset for each in versions]


def test_the_later_record_wins_without_versions() -> None:
    history = History([version(1), version(4), version(9)])
    assert history.newest.offset == 9
    assert offsets(history.since({LOG: 5})[0]) == [4, 9]
    assert history.since({LOG: 1}) == ([*history], False)


def test_the_greater_version_wins_whatever_the_order() -> None:
    history = History([version(1, 10), version(4, 30), version(9, 20)])
    assert history.newest.offset == 4
    assert history.since({LOG: 5}) == ([history[1]], True)
    assert history.since({LOG: 10}) == ([history[1]], True)


def test_a_null_value_has_no_version_and_the_later_record_wins_on_both_sides_of_it() -> None:
    history = History([version(1, 50), version(2, deletes=True), version(3, 10)])
    assert history.newest.offset == 3
    assert offsets(history.since({LOG: 3})[0]) == [2, 3]


def test_in_two_kafka_partitions_the_greatest_version_wins_in_whatever_order_they_are_read() -> None:
    history = History([version(1, 10), version(7, 40), version(3, 30, log=OTHER)])
    assert history.newest.offset == 7
    possible, required = history.since({OTHER: 5})
    assert (offsets(possible), required) == ([3, 7], True)


@pytest.mark.parametrize("dimension", [2, 32, 384])
def test_vectors_follow_the_definition_that_the_product_follows(dimension: int) -> None:
    texts = ["", "harbour lantern", "Öl\n\nsignal"]
    ours = np.array([hash_vector(text, dimension) for text in texts])
    assert np.allclose(ours, HashEmbedder(f"hash:{dimension}").embed_queries(texts), atol=1e-6)
    assert not np.allclose(ours[0], ours[1], atol=1e-2)


def row(chunk: int, text: str, **changed: object) -> Row:
    known = {"id": str(chunk), "doc_id": "a", "chunk": chunk, "text": text, "event_time": 5, "kafka_offset": 1}
    return {**known, "lang": "en", "vector": hash_vector(text, 8), **changed}


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([row(0, "one two"), row(1, "two three")], ""),
        ([row(0, "one two")], "the chunks do not cover"),
        ([row(0, "one two"), row(2, "two three")], "chunks [0, 2]"),
        ([row(0, "one two three", lang="de")], "chunk 0 (of 1) has"),
        ([row(0, "one two three", event_time=6)], "event time of chunk 0"),
        ([row(0, "one two three", doc_id="b")], "chunk 0 is of b"),
        ([row(0, "one two three", vector=hash_vector("one two", 8))], "the vector of chunk 0"),
        ([], "chunks []"),
    ],
)
def test_every_difference_is_found(rows: list[Row], problem: str) -> None:
    found = mismatch(Wanted("a", "one two three", 5, {"lang": "en"}), rows, 8)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


@pytest.mark.parametrize(
    ("partition", "event_time", "right"),
    [
        ("d20261122", 1_795_305_600_000, True),
        ("d20261121", 1_795_305_600_000, False),
        ("m202611", 1_795_305_600_000, True),
        ("y2026", 1_795_305_600_000, True),
        ("y2025", 1_795_305_600_000, False),
        ("d00010101", -62_135_596_800_000, True),
        ("d19691231", -1, True),
    ],
)
def test_the_name_of_a_milvus_partition_is_that_of_the_event_time(partition: str, event_time: int, right: bool) -> None:
    assert belongs(partition, event_time) is right


def test_of_equal_versions_in_two_kafka_partitions_the_later_timestamp_wins_and_either_record_may_be_named() -> None:
    early, late = (Version((*log, 1), Wanted("a", "t", 0, {}), 10, ms) for log, ms in ((OTHER, 4), (LOG, 5)))
    history = History([late, early])
    assert history.newest is late
    assert history.last == [late, early]
    assert History([late, replace(early, document=None)]).last == [late]


def test_of_equal_versions_in_one_of_two_kafka_partitions_the_later_record_wins_though_its_timestamp_is_earlier() -> (
    None
):
    first, second, other = (
        Version((*log, offset), Wanted("a", f"{offset}", 0, {}), 10, ms)
        for log, offset, ms in ((LOG, 1, 9), (LOG, 2, 5), (OTHER, 7, 7))
    )
    history = History([other, first, second])
    assert history.newest is second
    assert history.since({LOG: 3}) == ([first, second], True)
    assert history.since({OTHER: 8}) == ([other, first, second], True)
    assert History([replace(other, time_ms=10), first, second]).newest.offset == 7


def test_differences_of_shared_documents_are_set_apart() -> None:
    verdict = Verdict(lost=["a", "ab"], stale=["a (newest at 1): text"], duplicates=["b: chunk 1 2 times"])
    verdict.set_apart({"a"})
    assert (verdict.lost, verdict.stale, verdict.duplicates) == (["ab"], [], ["b: chunk 1 2 times"])
    assert verdict.shared == ["lost: a", "stale: a (newest at 1): text"]
    assert verdict.harms == 2
