"""Ids, hashes and columns of rows."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import JsonValue, Position, Put
from pipeline.store.writing.rows import (
    append_row_id,
    append_rows,
    check_storable,
    content_hash,
    document_rows,
    ledger_id,
    row_hash,
    row_id,
    row_ids,
    row_sizes,
)
from tests.support.documents import DIMENSION, NOON_MS, embedded, put

names = st.text(alphabet='ab1:-/" é', max_size=4)
keys = st.tuples(st.none() | names, names, st.integers(0, 20), names)


@given(keys, keys)
def test_different_chunks_never_share_an_id(
    one: tuple[str | None, str, int, str], other: tuple[str | None, str, int, str]
) -> None:
    assert (row_id(*one) == row_id(*other)) == (one == other)
    assert (ledger_id(*one[:2]) == ledger_id(*other[:2])) == (one[:2] == other[:2])


def test_ids_are_short_lower_case_hex_whatever_the_key_is() -> None:
    evil = "'] or id != '" * 100
    for identifier in (
        row_id(None, evil, 0, "d20261122"),
        ledger_id(evil, ""),
        append_row_id(Position(evil, 0, 0), evil, 1),
    ):
        assert len(identifier) == 40
        assert set(identifier) <= set("0123456789abcdef")


def test_ids_by_position_differ_by_topic_id_topic_partition_offset_and_chunk() -> None:
    positions = [Position(*parts) for parts in product(("t", "t1"), (1, 11), (1, 11))]
    topic_ids = (None, "", "id", "id1")
    ids = {append_row_id(position, name, chunk) for position in positions for name in topic_ids for chunk in (1, 11)}
    assert len(ids) == 64


def test_ids_of_a_collection_of_a_former_version_are_those_of_that_version() -> None:
    assert append_row_id(Position("documents", 3, 17), None, 2) == "897398918ffa26b0262106482aff6646a855dbde"


def test_a_row_has_the_contracts_columns_and_flat_metadata() -> None:
    item = embedded(put("d", "first second", 7, metadata={"lang": "en", "tags": ["x"]}, tenant="acme"))
    first, second = document_rows(item, "d20261122")
    assert {name: value for name, value in first.items() if name != "vector"} == {
        "id": row_id("acme", "d", 0, "d20261122"),
        "doc_id": "d",
        "chunk": 0,
        "text": "first",
        "event_time": NOON_MS,
        "kafka_topic": "documents",
        "kafka_partition": 0,
        "kafka_offset": 7,
        "lang": "en",
        "tags": ["x"],
        "tenant": "acme",
    }
    assert first["vector"].tolist() == item.vectors[0].tolist()
    assert (second["chunk"], second["text"]) == (1, "second")
    assert "tenant" not in document_rows(embedded(put("d", "first", 7)), "p")[0]
    assert append_rows(item, "id")[1]["id"] == append_row_id(item.put.position, "id", 1)
    assert [row["id"] for row in document_rows(item, "p")] == row_ids("acme", "d", "p", range(2))


def test_hashes_follow_what_the_rows_say() -> None:
    base = put("d", "text", 1, metadata={"a": 1, "b": 2})
    assert content_hash("text") != content_hash("text ")
    assert row_hash(base.document) == row_hash(put("d", "other", 9, metadata={"b": 2, "a": 1}).document)
    others: list[dict[str, JsonValue]] = [{"a": 1}, {"a": 1, "b": "2"}, {"a": 1, "b": 2.5}, {"a": 1, "b": None}]
    for other in others:
        assert row_hash(base.document) != row_hash(replace(base.document, metadata=other))
    assert row_hash(base.document) != row_hash(replace(base.document, event_time=NOON_MS + 1))
    assert row_hash(base.document) != row_hash(replace(base.document, tenant=""))


def test_what_cannot_be_stored_is_a_value_error() -> None:
    unstorable: list[Put] = [put("d", "t", 1, metadata={"n": 2**70}), put("d", "t", 1, metadata={"s": "\ud800"})]
    for record in unstorable:
        with pytest.raises(ValueError, match="metadata"):
            row_hash(record.document)
    with pytest.raises(ValueError, match="surrogates"):
        content_hash("\ud800")
    with pytest.raises(ValueError, match="1024 bytes"):
        check_storable((None, "é" * 513), None)
    with pytest.raises(ValueError, match="64-bit"):
        check_storable((None, "d"), 2**63)
    check_storable((None, "é" * 512), -(2**63))


def test_sizes_are_no_smaller_than_what_is_sent() -> None:
    item = embedded(put("d", "é" * 1000 + " short", 1, metadata={"k": "v" * 500}))
    long, short = row_sizes(item)
    assert long >= 2000 + 500 + 4 * DIMENSION
    assert short == long - 2000 + 5
