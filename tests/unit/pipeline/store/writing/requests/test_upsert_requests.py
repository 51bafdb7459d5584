"""Bounded requests, and refusals traced to their documents."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RequestTooLarge, RowsRefused
from pipeline.store.milvus.api import Row
from pipeline.store.writing.requests.upsert_requests import RowGroup, Sent, UpsertRequests, WritePolicy
from tests.support.fakes.milvus import FakeMilvus


class Recorder(FakeMilvus):
    """Refuses every request with a row marked bad, or with more bytes than it takes."""

    def __init__(self, max_bytes: int = 10**9) -> None:
        super().__init__()
        self.max_bytes = max_bytes
        self.requests: list[list[str]] = []

    def upsert(self, collection: str, partition: str | None, rows: Sequence[Row]) -> None:
        if sum(row["size"] for row in rows) > self.max_bytes:
            raise RequestTooLarge("too large")
        bad = [row["id"] for row in rows if row["bad"]]
        if bad:
            raise RowsRefused(f"bad {bad[0]}")
        self.requests.append([row["id"] for row in rows])


def group(owner: str, sizes: Sequence[int], *, bad: int | None = None) -> RowGroup[str]:
    rows = [{"id": f"{owner}{i}", "size": size, "bad": i == bad} for i, size in enumerate(sizes)]
    return RowGroup(owner, rows, sizes)


groups_of = st.lists(st.tuples(st.lists(st.integers(1, 9), min_size=1, max_size=7), st.booleans()), max_size=12)


@given(groups_of, st.integers(1, 6), st.integers(9, 30))
def test_every_good_document_is_stored_once_whole_and_within_the_limits(
    shapes: list[tuple[list[int], bool]], max_rows: int, max_bytes: int
) -> None:
    groups = [group(f"g{n}_", sizes, bad=0 if bad else None) for n, (sizes, bad) in enumerate(shapes)]
    server, sent, touched = Recorder(), Sent[str](), set[str]()
    UpsertRequests[str](server, "c", WritePolicy(max_rows, max_bytes)).send(None, groups, sent=sent, touched=touched)
    good = [item for item, (_, bad) in zip(groups, shapes, strict=True) if not bad]
    stored = [identifier for request in server.requests for identifier in request]
    assert stored == [row["id"] for item in good for row in item.rows]
    assert sent.rows == len(stored)
    assert sent.refused.keys() == {item.owner for item in groups} - {item.owner for item in good}
    assert touched == {item.owner for item in good}
    sizes = {row["id"]: row["size"] for item in groups for row in item.rows}
    for request in server.requests:
        assert len(request) <= max_rows or len({identifier.partition("_")[0] for identifier in request}) == 1
        assert sum(sizes[identifier] for identifier in request) <= max_bytes
    for item in good:
        if sum(item.sizes) <= max_bytes:
            ids = {row["id"] for row in item.rows}
            assert any(ids <= set(request) for request in server.requests), "a document that fits is in one request"


def test_a_request_over_the_servers_limit_is_split_down_to_single_rows() -> None:
    server, sent, touched = Recorder(max_bytes=10), Sent[str](), set[str]()
    groups = [group("a", [4, 4, 4]), group("b", [11]), group("c", [6, 6])]
    UpsertRequests[str](server, "c", WritePolicy()).send(None, groups, sent=sent, touched=touched)
    assert sorted(identifier for request in server.requests for identifier in request) == ["a0", "a1", "a2", "c0", "c1"]
    assert sent.refused == {"b": ("row_refused", "too large")}
    assert touched == {"a", "c"}


def test_a_document_refused_half_way_counts_as_touched() -> None:
    server, sent, touched = Recorder(), Sent[str](), set[str]()
    requests = UpsertRequests[str](server, "c", WritePolicy(max_bytes=2))
    requests.send(None, [group("a", [1, 1, 1], bad=2)], sent=sent, touched=touched)
    assert server.requests == [["a0", "a1"]]
    assert touched == {"a"}
    assert sent.refused == {"a": ("row_refused", "bad a2")}
