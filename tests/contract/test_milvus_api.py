"""What our code relies on, asked of the fake, of a real server and of Lite; where they differ it is said here.

Milvus takes seconds to create a collection, so one serves all tests and each test has Milvus partitions of its own.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import LeaseExpired, NotFound, NotLoaded, RequestTooLarge, RowsRefused, Unavailable, UsageError
from pipeline.records import SPARSE_FIELD
from pipeline.store.collection.indexes import IndexSettings, search_params
from pipeline.store.collection.schema import documents_spec
from pipeline.store.collection.stamp import read_stamp
from pipeline.store.milvus.api import CollectionSpec, MilvusServerApi, ServerInfo, VectorSearch, as_of
from pipeline.store.milvus.client import connect
from tests.support.fakes.milvus import FakeMilvus
from tests.support.names import unique

DIMENSION = 4
STAMP = {"name": "a/b", "digest": 'with "quotes" and é'}
INDEX = IndexSettings("HNSW", "COSINE", {"M": 8, "efConstruction": 64})
FIELDS = ["id", "doc_id", "chunk", "text", "event_time", "kafka_topic", "kafka_partition", "kafka_offset"]


@dataclass(frozen=True)
class Subject:
    """A Milvus under test, with the collection that the tests share."""

    kind: str
    api: MilvusServerApi
    collection: str

    @property
    def lite(self) -> bool:
        return self.kind == "lite"

    def partition(self) -> str:
        name = unique("p")
        self.api.create_partition(self.collection, name)
        return name

    def put(self, partition: str, *rows: dict[str, Any]) -> None:
        self.api.upsert(self.collection, partition, rows)

    def ids(self, partition: str, expression: str = "chunk >= 0") -> list[str]:
        found = self.api.query(self.collection, expression, ["id"], partitions=[partition], strong=True)
        return sorted(row["id"] for row in found)


def spec_of(server: ServerInfo, name: str) -> CollectionSpec:
    return documents_spec(name, dimension=DIMENSION, index=INDEX, stamp=STAMP, bm25=server.capabilities.bm25)


@pytest.fixture(
    scope="module",
    params=[
        "fake",
        pytest.param("server", marks=pytest.mark.servers),
        pytest.param("lite", marks=pytest.mark.servers),
    ],
)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def address(kind: str, request: pytest.FixtureRequest) -> str | None:
    if kind == "fake":
        return None
    return str(request.getfixturevalue({"server": "milvus_uri", "lite": "milvus_lite_uri"}[kind]))


@pytest.fixture(scope="module")
def subject(kind: str, address: str | None) -> Iterator[Subject]:
    api: MilvusServerApi = FakeMilvus() if address is None else connect(address)
    name = unique("contract")
    api.create_collection(spec_of(api.server, name))
    yield Subject(kind, api, name)
    api.drop_collection(name)
    api.close()


def vector(*values: float) -> NDArray[np.float32]:
    return np.array([*values, *[0.0] * (DIMENSION - len(values))], dtype=np.float32)


def row(identifier: str, **changes: Any) -> dict[str, Any]:
    made = {
        "id": identifier,
        "doc_id": "doc",
        "chunk": 0,
        "text": "a text",
        "vector": vector(1.0),
        "event_time": 1_795_000_000_000,
        "kafka_topic": "topic",
        "kafka_partition": 0,
        "kafka_offset": 0,
    }
    return made | changes


# --- collections -------------------------------------------------------------------------------------------------


def test_it_says_what_it_is(subject: Subject) -> None:
    assert subject.api.server.lite is subject.lite
    assert subject.api.server.number >= (2, 3, 0)


def test_a_collection_is_described_as_it_was_created(subject: Subject) -> None:
    info = subject.api.describe(subject.collection)
    wanted = spec_of(subject.api.server, subject.collection)
    assert info is not None
    assert info.name == subject.collection
    assert set(info.fields) == set(wanted.fields)
    assert info.dynamic
    assert read_stamp(info) == STAMP
    assert info.indexes.keys() == wanted.indexes.keys()
    assert (info.indexes["vector"].type, info.indexes["vector"].metric) == ("HNSW", "COSINE")
    # Lite does not tell the parameters of an index.
    assert info.indexes["vector"].params == ({} if subject.lite else {"M": 8, "efConstruction": 64})


def test_collections_are_listed(subject: Subject) -> None:
    listed = subject.api.collections()
    assert subject.collection in listed
    assert listed == sorted(listed)


def test_no_collection_is_described_as_none(subject: Subject) -> None:
    assert subject.api.describe(unique("missing")) is None


def test_two_workers_create_a_collection_at_once_and_it_can_be_dropped_twice(subject: Subject) -> None:
    spec = spec_of(subject.api.server, unique("contract"))
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(subject.api.create_collection, spec) for _ in range(2)]:
            future.result()
    try:
        info = subject.api.describe(spec.name)
        assert info is not None
        assert info.indexes.keys() == spec.indexes.keys()
        assert subject.api.query(spec.name, "chunk >= 0", ["id"], strong=True) == []
    finally:
        subject.api.drop_collection(spec.name)
    subject.api.drop_collection(spec.name)
    assert subject.api.describe(spec.name) is None


def test_calls_on_a_missing_collection_say_so(subject: Subject) -> None:
    api, name = subject.api, unique("missing")
    calls: list[Callable[[], object]] = [
        lambda: api.partitions(name),
        lambda: api.create_partition(name, "p"),
        lambda: api.upsert(name, None, [row("a")]),
        lambda: api.delete(name, None, ["a"]),
        lambda: api.query(name, "chunk >= 0", ["id"]),
        lambda: api.search(name, VectorSearch(vector(1.0)[None], 3)),
        lambda: api.count(name),
        lambda: api.flush(name),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()


# --- Milvus partitions -------------------------------------------------------------------------------------------


def test_partitions_are_created_once_and_listed(subject: Subject) -> None:
    names = sorted(unique("p") for _ in range(2))
    for name in [*reversed(names), *names]:
        subject.api.create_partition(subject.collection, name)
    listed = subject.api.partitions(subject.collection)
    assert [name for name in listed if name in names] == names
    assert "_default" not in listed
    assert listed == sorted(listed)


def test_a_read_since_an_instant_sees_what_was_acknowledged_before_it(subject: Subject) -> None:
    partition = subject.partition()
    for number in range(10):
        subject.put(partition, row(f"{number:02x}"))
        instant = subject.api.instant()
        assert (instant is None) == subject.lite
        found = subject.api.query(subject.collection, "chunk >= 0", ["id"], partitions=[partition], since=instant)
        assert len(found) == number + 1


def test_a_search_since_an_instant_sees_what_was_acknowledged_before_it(subject: Subject) -> None:
    partition = subject.partition()
    for number in range(5):
        subject.put(partition, row(f"{number:02x}"))
        search = VectorSearch(vector(1.0)[None], 10, partitions=[partition], **as_of(subject.api.instant()))
        assert len(subject.api.search(subject.collection, search)[0]) == number + 1


def test_a_dropped_partition_takes_its_rows_along(subject: Subject) -> None:
    name = subject.partition()
    subject.put(name, row("d0"))
    for _ in range(2):
        subject.api.drop_partition(subject.collection, name)
    assert name not in subject.api.partitions(subject.collection)
    subject.api.create_partition(subject.collection, name)
    assert subject.ids(name) == []


def test_calls_on_a_missing_partition_say_so(subject: Subject) -> None:
    api, name, missing = subject.api, subject.collection, unique("p")
    there = subject.partition()
    calls: list[Callable[[], object]] = [
        lambda: api.upsert(name, missing, [row("a")]),
        lambda: api.delete(name, missing, ["a"]),
        lambda: api.query(name, "chunk >= 0", ["id"], partitions=[there, missing]),
        lambda: api.search(name, VectorSearch(vector(1.0)[None], 3, partitions=[missing])),
        lambda: api.count(name, partitions=[missing]),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()


def test_the_default_partition_can_be_named(subject: Subject) -> None:
    identifier = unique("").removeprefix("_")
    subject.put("_default", row(identifier))
    assert identifier in subject.ids("_default")
    subject.api.delete(subject.collection, None, [identifier])
    assert identifier not in subject.ids("_default")


def test_a_released_partition_is_not_searched(subject: Subject) -> None:
    api, name, partition = subject.api, subject.collection, subject.partition()
    assert partition in api.loaded_partitions(name)
    if subject.lite:
        with pytest.raises(UsageError, match="Lite"):
            api.release_partitions(name, [partition])
        api.load_partitions(name, [partition])
        return
    api.release_partitions(name, [partition])
    assert partition not in api.loaded_partitions(name)
    with pytest.raises(NotLoaded):
        api.query(name, "chunk >= 0", ["id"], partitions=[partition])
    api.load_partitions(name, [partition])
    assert partition in api.loaded_partitions(name)
    assert subject.ids(partition) == []


# --- writing -----------------------------------------------------------------------------------------------------


def test_a_row_comes_back_as_it_was_written(subject: Subject) -> None:
    partition = subject.partition()
    written = row(
        "ab12",
        text='naïve 文 🎉 "quoted" back\\slash\nline',
        doc_id="key'] or id != ''",
        chunk=2**62,
        event_time=-1,
        tag="x",
        nested={"list": [1, 2.5, "three"], "yes": True},
        vector=vector(0.25, -0.5, 0.125, 1e-3),
    )
    subject.put(partition, written)
    names = [*FIELDS, "vector", "tag", "nested"]
    (found,) = subject.api.query(subject.collection, 'id in ["ab12"]', names, partitions=[partition], strong=True)
    assert found["vector"].dtype == np.float32
    assert np.array_equal(found["vector"], written["vector"])
    assert {name: found[name] for name in names if name != "vector"} == {
        name: written[name] for name in names if name != "vector"
    }


def test_an_upsert_replaces_within_its_partition(subject: Subject) -> None:
    partition = subject.partition()
    subject.put(partition, row("aa", text="old", tag="old"), row("bb"))
    subject.put(partition, row("aa", text="new"))
    found = subject.api.query(
        subject.collection, "chunk >= 0", ["id", "text", "tag"], partitions=[partition], strong=True
    )
    assert sorted((one["id"], one["text"], one.get("tag")) for one in found) == [
        ("aa", "new", None),
        ("bb", "a text", None),
    ]
    assert subject.api.count(subject.collection, partitions=[partition]) == 2


def test_an_id_may_stand_in_two_partitions_except_on_lite(subject: Subject) -> None:
    one, other = subject.partition(), subject.partition()
    subject.put(one, row("cc"))
    subject.put(other, row("cc"))
    # The differences that put the Milvus partition into a row's id.
    assert subject.ids(one) == ([] if subject.lite else ["cc"])
    assert subject.ids(other) == ["cc"]
    subject.api.delete(subject.collection, one, ["cc"])
    assert subject.ids(one) == []
    assert subject.ids(other) == ([] if subject.lite else ["cc"])


def test_delete_takes_ids_that_are_not_there(subject: Subject) -> None:
    partition = subject.partition()
    subject.put(partition, row("aa"), row("bb"))
    subject.api.delete(subject.collection, partition, ["aa", "ffff"])
    subject.api.delete(subject.collection, partition, [])
    subject.api.upsert(subject.collection, partition, [])
    assert subject.ids(partition) == ["bb"]


@pytest.mark.parametrize("hostile", ["x'] or id != '' or id in ['", 'a"', "", "AB", "a" * 65, "a\n"])
def test_an_id_that_is_no_digest_never_reaches_the_server(subject: Subject, hostile: str) -> None:
    partition = subject.partition()
    subject.put(partition, row("aa"))
    with pytest.raises(ValueError, match="hex digest"):
        subject.api.delete(subject.collection, partition, ["aa", hostile])
    assert subject.ids(partition) == ["aa"]


def test_a_write_that_could_outlive_the_lease_is_not_sent(subject: Subject) -> None:
    there = subject.partition()
    subject.put(there, row("aa"))
    try:
        subject.api.fence(lambda: 0.2)
        with pytest.raises(LeaseExpired, match="another worker may own"):
            subject.put(there, row("bb"))
        with pytest.raises(LeaseExpired):
            subject.api.delete(subject.collection, there, ["aa"])
        if subject.kind == "server":  # where the request is packed by us, the lease is looked at again after that
            left = iter([60.0, 0.0])
            subject.api.fence(lambda: next(left))
            with pytest.raises(LeaseExpired):
                subject.put(there, row("cc"))
    finally:
        subject.api.fence(lambda: math.inf)
    assert subject.ids(there) == ["aa"]


def test_an_id_cannot_stand_twice_in_one_upsert(subject: Subject) -> None:
    with pytest.raises(ValueError, match="twice"):
        subject.put("_default", row("aa", text="old"), row("aa", text="new"))


@pytest.mark.parametrize(
    ("bad", "lite_too"),
    [
        ({"vector": np.ones(DIMENSION - 1, np.float32)}, True),
        ({"vector": np.ones(2 * DIMENSION, np.float32)}, True),
        ({"kafka_topic": "x" * 250}, True),
        ({"chunk": "three"}, True),
        ({"chunk": 2**63}, True),
        ({"text": "\ud800"}, True),
        ({"text": None}, True),
        # Lite takes NaN, counts characters where a server counts bytes, and does not limit the dynamic field.
        ({"vector": np.full(DIMENSION, np.nan, np.float32)}, False),
        ({"vector": np.full(DIMENSION, np.inf, np.float32)}, False),
        ({"kafka_topic": "é" * 125}, False),
        ({"blob": "x" * 70_000}, False),
    ],
)
def test_one_bad_row_refuses_the_request(subject: Subject, bad: dict[str, Any], lite_too: bool) -> None:
    partition = subject.partition()
    if subject.lite and not lite_too:
        subject.put(partition, row("aa"), row("bb", **bad))
        subject.api.drop_partition(subject.collection, partition)
        return
    with pytest.raises(RowsRefused):
        subject.put(partition, row("aa"), row("bb", **bad))
    assert subject.ids(partition) == []


def test_a_missing_field_is_refused(subject: Subject) -> None:
    partition = subject.partition()
    incomplete = row("aa")
    del incomplete["event_time"]
    with pytest.raises(RowsRefused):
        subject.put(partition, incomplete)


@pytest.mark.parametrize("kind", ["fake", "server"], indirect=True)  # Lite takes messages of any size
def test_a_request_over_the_message_limit_says_so(subject: Subject) -> None:
    partition = subject.partition()
    rows = [row(f"{i:04x}", text="x" * 65_000) for i in range(1_100)]
    with pytest.raises(RequestTooLarge):
        subject.put(partition, *rows)
    assert subject.ids(partition) == []


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filled(subject: Subject) -> str:
    """A Milvus partition with four rows at known places."""
    partition = subject.partition()
    subject.put(
        partition,
        row("a1", chunk=0, text="red apples", vector=vector(1.0, 0.0), lang="en", doc_id='quo"te'),
        row("a2", chunk=1, text="red pears", vector=vector(0.9, 0.1), lang="en", doc_id="back\\slash"),
        row("a3", chunk=2, text="green pears", vector=vector(0.0, 1.0), lang="de", doc_id="new\nline"),
        row("a4", chunk=3, text="blue", vector=vector(-1.0, 0.0), doc_id="文🎉"),
    )
    assert subject.ids(partition) == ["a1", "a2", "a3", "a4"]
    return partition


@pytest.mark.parametrize(
    ("expression", "ids"),
    [
        ('id in ["a1", "a3", "ff"]', ["a1", "a3"]),
        ("id in []", []),
        ("chunk > 1", ["a3", "a4"]),
        ("chunk >= 1 and chunk < 3", ["a2", "a3"]),
        ('lang == "de" or chunk == 0', ["a1", "a3"]),
        ('(lang == "de" or chunk == 0) and event_time > 0', ["a1", "a3"]),
        ("chunk != 2", ["a1", "a2", "a4"]),
        ('text == "blue"', ["a4"]),
    ],
)
def test_expressions(subject: Subject, filled: str, expression: str, ids: list[str]) -> None:
    assert subject.ids(filled, expression) == ids


@pytest.mark.parametrize(
    ("text", "identifier"), [('quo"te', "a1"), ("back\\slash", "a2"), ("new\nline", "a3"), ("文🎉", "a4")]
)
def test_json_literals_match_exactly(subject: Subject, filled: str, text: str, identifier: str) -> None:
    assert subject.ids(filled, f"doc_id == {json.dumps(text, ensure_ascii=False)}") == [identifier]


def test_a_query_can_be_limited(subject: Subject, filled: str) -> None:
    found = subject.api.query(subject.collection, "", ["id"], partitions=[filled], strong=True, limit=3)
    assert len({one["id"] for one in found}) == 3
    if not subject.lite:  # which answers all rows
        with pytest.raises(UsageError, match="limit"):
            subject.api.query(subject.collection, "", ["id"], partitions=[filled])


@pytest.mark.parametrize("expression", ["chunk === 3", "chunk >", "(chunk > 1"])
def test_an_expression_that_cannot_be_read_is_the_callers_fault(subject: Subject, expression: str) -> None:
    with pytest.raises(UsageError):
        subject.api.query(subject.collection, expression, ["id"])
    with pytest.raises(UsageError):
        subject.api.search(subject.collection, VectorSearch(vector(1.0)[None], 3, expression=expression))


def test_counts_see_deletes(subject: Subject) -> None:
    one, other = subject.partition(), subject.partition()
    subject.put(one, row("e1"), row("e2"), row("e3"))
    subject.put(other, row("e4"))
    subject.api.delete(subject.collection, one, ["e2"])
    assert subject.api.count(subject.collection, partitions=[one]) == 2
    assert subject.api.count(subject.collection, partitions=[one, other]) == 3
    assert subject.api.count(subject.collection) >= 3


def search(subject: Subject, partition: str, *vectors: Sequence[float], limit: int = 10, **options: Any) -> Any:
    return subject.api.search(
        subject.collection,
        VectorSearch(
            np.array([vector(*values) for values in vectors], dtype=np.float32),
            limit,
            partitions=[partition],
            params=search_params(INDEX, limit),
            strong=True,
            **options,
        ),
    )


def test_a_search_answers_the_nearest_first(subject: Subject, filled: str) -> None:
    (hits,) = search(subject, filled, [1.0, 0.0])
    assert [hit.id for hit in hits] == ["a1", "a2", "a3", "a4"]
    assert [hit.score for hit in hits] == pytest.approx([1.0, 0.9939, 0.0, -1.0], abs=1e-3)


def test_a_search_answers_each_query_within_the_limit(subject: Subject, filled: str) -> None:
    first, second = search(subject, filled, [0.0, 1.0], [-1.0, 0.0], limit=2)
    assert [hit.id for hit in first] == ["a3", "a2"]
    assert [hit.id for hit in second] == ["a4", "a3"]
    assert search(subject, filled, limit=2) == []


def test_a_search_gives_the_fields_asked_for(subject: Subject, filled: str) -> None:
    (hits,) = search(subject, filled, [1.0, 0.0], limit=4, fields=["text", "lang"])
    assert [hit.fields for hit in hits] == [
        {"text": "red apples", "lang": "en"},
        {"text": "red pears", "lang": "en"},
        {"text": "green pears", "lang": "de"},
        {"text": "blue"},
    ]
    (bare,) = search(subject, filled, [1.0, 0.0], limit=1)
    assert bare[0].fields == {}
    (with_vector,) = search(subject, filled, [0.0, 1.0], limit=1, fields=["vector"])
    assert np.array_equal(with_vector[0].fields["vector"], vector(0.0, 1.0))


def test_a_search_can_be_filtered(subject: Subject, filled: str) -> None:
    (hits,) = search(subject, filled, [1.0, 0.0], expression='lang == "en" and chunk > 0')
    assert [hit.id for hit in hits] == ["a2"]


def test_a_search_with_a_vector_of_another_length_is_the_callers_fault(subject: Subject, filled: str) -> None:
    with pytest.raises(UsageError):
        subject.api.search(
            subject.collection, VectorSearch(np.ones((1, DIMENSION + 1), np.float32), 3, partitions=[filled])
        )


def test_a_search_by_words_where_the_server_has_it(subject: Subject, filled: str) -> None:
    api = subject.api
    search = VectorSearch(
        ["red pears"], 2, anns_field=SPARSE_FIELD, partitions=[filled], fields=["text"], expression="chunk < 3"
    )
    if not api.server.capabilities.bm25:
        with pytest.raises(UsageError, match=r"Milvus 2\.5"):
            api.search(subject.collection, search)
        return
    (hits,) = api.search(subject.collection, search)
    assert hits[0].id == "a2"
    assert hits[0].fields == {"text": "red pears"}


def test_flush_persists_and_changes_nothing_else(subject: Subject, filled: str) -> None:
    subject.api.flush(subject.collection)
    assert subject.ids(filled) == ["a1", "a2", "a3", "a4"]
    indexed, pending = subject.api.index_progress(subject.collection)
    assert indexed >= 0
    assert pending >= 0
    with pytest.raises(NotFound):
        subject.api.index_progress(subject.collection, "no_such_field")


def test_a_closed_connection_says_so(kind: str, address: str | None) -> None:
    api: MilvusServerApi = FakeMilvus() if address is None else connect(address)
    api.close()
    with pytest.raises(Unavailable):
        api.collections()
    api.close()
