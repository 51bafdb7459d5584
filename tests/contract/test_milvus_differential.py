"""The fake Milvus is the real one, as far as anybody can see: random operations, and the same answers after each look.

What the real server leaves open (which copy of an id that stands in two Milvus partitions is answered) may be either.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.errors import MilvusStreamError
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.schema import documents_spec
from pipeline.store.milvus.api import MilvusServerApi, ServerInfo, VectorSearch
from pipeline.store.milvus.client import connect
from tests.support.fakes.milvus import FakeMilvus
from tests.support.names import unique

pytestmark = pytest.mark.servers

DIMENSION = 4
PARTITIONS = ("p0", "p1", "p2")
IDS = ("a0", "a1", "a2", "a3", "a4", "a5")
ALL: None = None
"""A read over every Milvus partition."""
BAD: dict[str, dict[str, Any]] = {
    "nan": {"vector": np.full(DIMENSION, np.nan, np.float32)},
    "infinity": {"vector": np.full(DIMENSION, np.inf, np.float32)},
    "dimension": {"vector": np.ones(DIMENSION + 1, np.float32)},
    "bytes": {"kafka_topic": "é" * 125},
    "characters": {"kafka_topic": "x" * 250},
    "int64": {"kafka_offset": 2**63},
    "dynamic": {"blob": "x" * 70_000},
}
BAD_ON_LITE = ("dimension", "characters", "int64")
"""Lite takes NaN and infinity, counts characters where a server counts bytes, and does not limit the dynamic field."""


@dataclass(frozen=True, slots=True)
class Upsert:
    """Rows of these ids; with `bad` the last one cannot be stored."""

    partition: str
    ids: tuple[str, ...]
    chunk: int
    bad: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    partition: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    partition: str


@dataclass(frozen=True, slots=True)
class Create:
    partition: str


@dataclass(frozen=True, slots=True)
class Look:
    """Compare everything that can be read, and what a filter over some ids and a scalar answers."""

    ids: tuple[str, ...]
    chunk: int


Step: TypeAlias = Upsert | Delete | Drop | Create | Look
Seen: TypeAlias = tuple[str, int, str, str | None]
"""Id, chunk, text and tag of a row."""


def row(identifier: str, step: int, chunk: int) -> dict[str, Any]:
    made = {
        "id": identifier,
        "doc_id": f"doc of {identifier}",
        "chunk": chunk,
        "text": f"text {step}",
        "vector": np.eye(DIMENSION, dtype=np.float32)[chunk] + np.float32(0.01 * step),
        "event_time": step,
        "kafka_topic": "topic",
        "kafka_partition": 0,
        "kafka_offset": step,
    }
    return made | {"tag": f"tag {step}"} if step % 2 else made


@dataclass
class Subject:
    """One server, with one collection whose rows and Milvus partitions are put back before each example."""

    api: MilvusServerApi
    collection: str

    def reset(self) -> None:
        there = self.api.partitions(self.collection)
        for partition in PARTITIONS:
            if partition in there:
                self.api.delete(self.collection, partition, IDS)
            else:
                self.api.create_partition(self.collection, partition)

    def has(self, partition: str) -> bool:
        return partition in self.api.partitions(self.collection)

    def apply(self, number: int, step: Upsert | Delete | Drop | Create) -> str:
        """Do it; the answer is the name of the error."""
        try:
            match step:
                case Upsert(partition, ids, chunk, bad):
                    rows = [row(identifier, number, chunk) for identifier in ids]
                    if bad is not None:
                        rows[-1] |= BAD[bad]
                    self.api.upsert(self.collection, partition, rows)
                case Delete(partition, ids):
                    self.api.delete(self.collection, partition, ids)
                case Drop(partition):
                    self.api.drop_partition(self.collection, partition)
                case Create(partition):
                    self.api.create_partition(self.collection, partition)
        except MilvusStreamError as error:
            return type(error).__name__
        return "ok"

    def query(self, expression: str, partition: str | None) -> list[Seen]:
        found = self.api.query(
            self.collection,
            expression,
            ["id", "chunk", "text", "tag"],
            partitions=partition and [partition],
            strong=True,
        )
        return sorted((one["id"], one["chunk"], one["text"], one.get("tag")) for one in found)

    def search(self, partition: str) -> list[str]:
        (hits,) = self.api.search(
            self.collection,
            VectorSearch(np.ones((1, DIMENSION), np.float32), 100, partitions=[partition], strong=True),
        )
        return sorted(hit.id for hit in hits)


@pytest.fixture(scope="module", params=["server", "lite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pair(kind: str, request: pytest.FixtureRequest) -> Iterator[tuple[Subject, Subject]]:
    """The real one and the fake."""
    real = connect(str(request.getfixturevalue({"server": "milvus_uri", "lite": "milvus_lite_uri"}[kind])))
    name = unique("differential")
    subjects = Subject(real, name), Subject(FakeMilvus(), name)
    for subject in subjects:
        subject.api.create_collection(spec(subject.api.server, name))
    yield subjects
    real.drop_collection(name)
    real.close()


def spec(server: ServerInfo, name: str) -> Any:
    index = IndexSettings("FLAT", "COSINE", {})
    return documents_spec(name, dimension=DIMENSION, index=index, stamp={"name": "m"}, bm25=server.capabilities.bm25)


def steps(ids_of: Mapping[str, tuple[str, ...]], bad: Sequence[str]) -> st.SearchStrategy[list[Step]]:
    """Lists of steps; `ids_of` gives for each Milvus partition the ids that may stand there."""

    def some(partition: str) -> st.SearchStrategy[tuple[str, ...]]:
        return st.lists(st.sampled_from(ids_of[partition]), min_size=1, unique=True).map(tuple)

    def upserts(partition: str) -> st.SearchStrategy[Step]:
        refused = st.one_of(st.none(), st.none(), st.sampled_from(bad))
        return st.builds(Upsert, st.just(partition), some(partition), chunks, refused)

    def deletes(partition: str) -> st.SearchStrategy[Step]:
        return st.builds(Delete, st.just(partition), some(partition))

    chunks = st.integers(0, DIMENSION - 1)
    partitions = st.sampled_from(PARTITIONS)
    looks = st.builds(Look, st.lists(st.sampled_from(IDS), min_size=1, unique=True).map(tuple), chunks)
    writes = partitions.flatmap(upserts)
    step = st.one_of(
        writes,
        writes,
        partitions.flatmap(deletes),
        st.builds(Drop, partitions),
        st.builds(Create, partitions),
        looks,
    )
    return st.lists(step, min_size=1, max_size=12)


ANYWHERE = dict.fromkeys(PARTITIONS, IDS)
ONE_PLACE = {partition: IDS[2 * number : 2 * number + 2] for number, partition in enumerate(PARTITIONS)}
"""Lite keeps an id in one Milvus partition only and deletes it wherever it is; while it stands in one, all agree."""


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # making a failure small takes minutes on a real server
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_the_fake_answers_as_the_real_one(
    kind: str, pair: tuple[Subject, Subject], pool: ThreadPoolExecutor, data: st.DataObject
) -> None:
    real, fake = pair
    script = data.draw(steps(ANYWHERE, tuple(BAD)) if kind == "server" else steps(ONE_PLACE, BAD_ON_LITE))
    for subject in pair:
        subject.reset()
    for number, step in enumerate([*script, Look(IDS, 2)]):
        if isinstance(step, Look):
            look(real, fake, step, pool)
        else:
            answers = [subject.apply(number, step) for subject in pair]
            if isinstance(step, Upsert) and step.bad and not fake.has(step.partition):
                assert "ok" not in answers, step  # which of the two faults is told is the server's affair
            else:
                assert answers[0] == answers[1], f"step {number}: {step}"


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """A strong read waits up to 0.2 s for the server's clock; many at a time wait together."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


def look(real: Subject, fake: Subject, step: Look, pool: ThreadPoolExecutor) -> None:
    ids = 'id in ["' + '","'.join(step.ids) + '"]'
    expressions = ["chunk >= 0", ids, f"chunk >= {step.chunk}", f"{ids} and chunk != {step.chunk}"]
    there = real.api.partitions(real.collection)
    assert there == fake.api.partitions(fake.collection)
    queries: dict[tuple[str, str | None], Future[list[Seen]]] = {
        (expression, partition): pool.submit(real.query, expression, partition)
        for expression in expressions
        for partition in (ALL, *there)
    }
    searches = {partition: pool.submit(real.search, partition) for partition in there}
    counts = {
        partition: pool.submit(real.api.count, real.collection, partitions=partition and [partition])
        for partition in (ALL, *there)
    }
    for (expression, partition), found in queries.items():
        if partition is None:
            copies = [copy for name in there for copy in fake.query(expression, name)]
            for answer in (found.result(), fake.query(expression, ALL)):
                assert [one[0] for one in answer] == sorted({copy[0] for copy in copies}), expression
                assert set(answer) <= set(copies), expression
        else:
            assert found.result() == fake.query(expression, partition), f"{expression} in {partition}"
    for partition, nearest in searches.items():
        assert nearest.result() == fake.search(partition), f"search in {partition}"
    for partition, count in counts.items():
        expected = fake.api.count(fake.collection, partitions=partition and [partition])
        assert count.result() == expected, f"count in {partition or 'all'}"


def test_an_id_twice_in_one_request_is_refused_before_it_is_sent(pair: tuple[Subject, Subject]) -> None:
    """The real server would store both rows and answer the first."""
    for subject in pair:
        subject.reset()
        rows = [row("a0", 0, 0), row("a1", 0, 0), row("a0", 1, 1)]
        with pytest.raises(ValueError, match="twice"):
            subject.api.upsert(subject.collection, "p0", rows)
        assert subject.query("chunk >= 0", "p0") == []
