"""The start of a group over an admin client and a memory of the test: what is decided, and what is remembered."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.protocol.consumer import OffsetSpec
from kafka.structs import OffsetAndMetadata

from consumers.kafka import KafkaSettings, RememberedPositions
from consumers.kafka.positions.remembered import AcceptableGap
from consumers.kafka.positions.start_positions import StartPositions
from pipeline.errors import OffsetsLost, Unavailable
from pipeline.records import KafkaPartition
from pipeline.store import Marks, PositionMarks
from pipeline.store.collection.opening import open_marks
from tests.support.fakes.milvus import FakeMilvus

TOPIC, GROUP = "documents", "milvus-stream"
P = (TOPIC, 0)


class Admin:
    """A log of one Kafka partition, and the commits of one group."""

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.commits: dict[TopicPartition, OffsetAndMetadata] = {}
        self.topic_id = "id-1"

    def commit(self, offset: int, leader_epoch: int = -1) -> None:
        self.commits[TopicPartition(*P)] = OffsetAndMetadata(offset, self.topic_id, leader_epoch)

    def describe_topics(self, names: Sequence[str]) -> list[dict[str, Any]]:
        return [{"name": name, "error_code": 0, "partitions": [0], "topic_id": self.topic_id} for name in names]

    def list_group_offsets(self, groups: Mapping[str, None]) -> dict[str, Any]:
        return {group: dict(self.commits) for group in groups}

    def _list_group_offsets_requests(self, groups: Mapping[str, None]) -> list[Any]:
        raise NotImplementedError

    def list_partition_offsets(self, wanted: Mapping[TopicPartition, int], **_: Any) -> dict[TopicPartition, Any]:
        return {
            name: SimpleNamespace(offset=self.start if spec == OffsetSpec.EARLIEST else self.end)
            for name, spec in wanted.items()
        }

    def describe_configs(self, resources: Sequence[Any], **_: Any) -> dict[str, Any]:
        return {}

    def alter_group_offsets(self, group: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        self.commits.update(offsets)


class Site:
    """An admin, a Milvus with marks, and start positions over both."""

    def __init__(self, start: int = 0, end: int = 9000, *, group: str = GROUP) -> None:
        self.admin = Admin(start, end)
        self.milvus = FakeMilvus()
        open_marks(self.milvus, "docs")
        self.filled = False
        self.settings = KafkaSettings("x:9092", (TOPIC,), group)

    def memory(self) -> RememberedPositions:
        marks = PositionMarks(Marks(self.milvus, "docs"), self.settings.group_id)
        return RememberedPositions(marks, self.settings.group_id, lambda topic: self.filled)

    def positions(self, memory: RememberedPositions | None = None, *, accept_gap: bool = False) -> StartPositions:
        admin: Any = self.admin
        return StartPositions(admin, self.settings, memory=memory or self.memory(), accept_gap=accept_gap)

    def start(self, *, accept_gap: bool = False) -> int:
        positions = self.positions(accept_gap=accept_gap)
        positions.before_joining()
        return positions.find([P]).positions[P]

    def remembered(self) -> dict[KafkaPartition, int]:
        positions = PositionMarks(Marks(self.milvus, "docs"), GROUP).read({TOPIC: self.admin.topic_id}).current
        return {name: position.offset for name, position in positions.items()}


def read_to(site: Site, offset: int, *, committed: bool = True) -> None:
    """What a worker leaves that has read so far."""
    memory = site.memory()
    memory.read({TOPIC: site.admin.topic_id})
    memory.write({P: offset})
    if committed:
        site.admin.commit(offset)


def test_a_first_start_is_remembered_and_committed() -> None:
    site = Site(start=40)
    assert site.start() == 40
    assert site.remembered() == {P: 40}
    assert site.admin.commits[TopicPartition(*P)].offset == 40


def test_offsets_that_expired_while_records_were_deleted_unread_are_a_gap_also_from_earliest() -> None:
    site = Site()
    read_to(site, 3000)
    site.admin.commits.clear()
    site.admin.start = 5000
    with pytest.raises(OffsetsLost, match="Milvus remembers 3000; the log begins at 5000, so 2000 records are gone"):
        site.start()
    assert site.admin.commits == {}
    assert site.start(accept_gap=True) == 5000
    assert site.remembered() == {P: 5000}


def test_offsets_that_expired_while_nothing_was_deleted_go_on_where_they_were_when_that_is_accepted() -> None:
    site = Site()
    read_to(site, 3000)
    site.admin.commits.clear()
    with pytest.raises(OffsetsLost, match=r"so no record is lost\. To go on at 3000"):
        site.start()
    assert site.start(accept_gap=True) == 3000


def begun_at(site: Site, offset: int, *, read_to: int) -> None:
    """What a worker leaves whose first commit had no effect, and no other one was made."""
    memory = site.memory()
    memory.read({TOPIC: site.admin.topic_id})
    memory.begin({P: offset})
    memory.assigned({P: offset}, [P])
    memory.write({P: read_to})


def test_a_start_whose_commit_was_lost_is_repeated_where_it_began() -> None:
    site = Site(start=40)
    begun_at(site, 40, read_to=3000)
    assert site.remembered() == {P: 3000}
    positions = site.positions()
    positions.before_joining()
    start = positions.find([P])
    assert (start.positions, start.decided) == ({P: 40}, {P: 40}), "and committed again"
    assert site.remembered() == {P: 40}


def test_a_start_whose_commit_was_lost_is_not_repeated_where_records_of_it_are_gone() -> None:
    site = Site(start=40)
    begun_at(site, 40, read_to=3000)
    site.admin.start = 41
    with pytest.raises(OffsetsLost, match=r"so no record is lost\. To go on at 3000"):
        site.start()
    assert site.start(accept_gap=True) == 3000


def test_a_start_that_was_committed_is_not_repeated() -> None:
    site = Site()
    memory = site.memory()
    positions = site.positions(memory)
    positions.before_joining()
    positions.find([P])
    memory.write({P: 3000})
    site.admin.commits.clear()
    with pytest.raises(OffsetsLost, match="Milvus remembers 3000"):
        site.start()


def test_a_commit_that_kafka_has_confirmed_ends_a_start_without_one() -> None:
    site = Site()
    memory = site.memory()
    read_to(site, 0, committed=False)
    positions = site.positions(memory)
    positions.find([P])
    positions.confirmed([P])
    memory.write({P: 3000})
    with pytest.raises(OffsetsLost, match="Milvus remembers 3000"):
        site.start()


def test_another_group_may_read_the_topic_into_the_collection_from_its_own_start() -> None:
    site = Site()
    read_to(site, 3000)
    site.admin.commits.clear()
    site.settings = KafkaSettings("x:9092", (TOPIC,), "another")
    assert site.start() == 0


@pytest.mark.parametrize("filled", [False, True])
def test_a_commit_over_a_milvus_that_remembers_nothing(filled: bool) -> None:
    site = Site()
    site.filled = filled
    site.admin.commit(3000)
    if filled:  # by a former version
        assert site.start() == 3000
    else:
        with pytest.raises(OffsetsLost, match="up to 3000 records are missing"):
            site.start()
        assert site.start(accept_gap=True) == 3000
        assert site.start() == 3000, "remembered"


def test_a_gap_is_accepted_once_a_start() -> None:
    site = Site()
    site.admin.commit(3000)
    positions = site.positions(accept_gap=True)
    assert positions.find([P]).positions == {P: 3000}
    site.admin.commit(4000)
    with pytest.raises(AcceptableGap, match="4000 in Kafka, but Milvus remembers 3000: 1000 records"):
        positions.find([P])


def recreate(site: Site, topic_id: str, *, end: int = 9000) -> None:
    """As the broker does: it forgets the commits of a deleted topic."""
    site.admin.topic_id, site.admin.start, site.admin.end = topic_id, 0, end
    site.admin.commits.clear()


@pytest.mark.parametrize("end", [0, 100, 9000])
def test_a_topic_made_again_stops_the_start_until_that_is_accepted(end: int) -> None:
    site = Site()
    read_to(site, 3000)
    recreate(site, "id-2", end=end)
    with pytest.raises(OffsetsLost, match=f"recreated since offset 3000 was remembered.* holds offsets 0 to {end}"):
        site.start()
    assert (site.admin.commits, site.remembered()) == ({}, {})
    assert site.start(accept_gap=True) == 0
    assert site.remembered() == {P: 0}
    assert site.start() == 0, "accepted once for all"


def test_a_topic_made_again_twice_is_compared_with_the_last_one() -> None:
    site = Site()
    read_to(site, 3000)
    recreate(site, "id-2")
    site.start(accept_gap=True)
    read_to(site, 20)
    recreate(site, "id-3")
    with pytest.raises(OffsetsLost, match="since offset 20 was remembered"):
        site.start()


def test_a_topic_made_again_that_only_another_group_has_read_is_new() -> None:
    site = Site()
    read_to(site, 3000)
    recreate(site, "id-2")
    site.settings = KafkaSettings("x:9092", (TOPIC,), "another")
    assert site.start() == 0


def test_a_topic_made_again_while_it_is_read_stops_a_member_that_finds_it_new() -> None:
    site = Site()
    positions = site.positions()
    positions.before_joining()
    positions.find([P])
    read_to(site, 3000)
    recreate(site, "id-2")
    with pytest.raises(OffsetsLost, match="recreated"):
        positions.find([P])


def test_a_topic_whose_broker_names_no_ids_is_not_taken_for_another_one() -> None:
    site = Site()
    site.admin.topic_id = ""
    read_to(site, 3000)
    recreate(site, "id-1")  # or the broker was upgraded, which looks the same
    assert site.start() == 0


def test_while_milvus_is_away_a_commit_is_followed_and_compared_before_the_next_position_is_written() -> None:
    site = Site()
    read_to(site, 3000)
    site.admin.commit(3500)
    memory = site.memory()
    site.milvus.down = True
    assert site.positions(memory).find([P]).positions == {P: 3500}
    with pytest.raises(Unavailable):
        memory.write({P: 3600})
    site.milvus.down = False
    with pytest.raises(OffsetsLost, match="500 records are missing"):
        memory.write({P: 3600})
    assert site.remembered() == {P: 3000}
    read_to(site, 3500)
    memory.write({P: 3600})
    assert site.remembered() == {P: 3600}


def test_without_a_commit_nothing_begins_while_milvus_is_away() -> None:
    site = Site()
    site.milvus.down = True
    with pytest.raises(Unavailable, match="remembered in Milvus"):
        site.start()
    assert site.admin.commits == {}


def test_the_leader_epoch_of_a_commit_is_the_one_to_compare_and_to_commit_again() -> None:
    site = Site()
    read_to(site, 3000)
    site.admin.commit(3000, leader_epoch=7)
    positions = site.positions()
    assert positions.find([P]).epochs == {P: 7}
    assert positions.metadata(P, 3000).leader_epoch == 7


def test_problems_are_named_and_nothing_is_changed() -> None:
    site = Site()
    read_to(site, 3000)
    assert site.positions().problems() == []
    site.admin.commit(3100)
    (problem,) = site.positions().problems()
    assert "100 records are missing" in str(problem)
    assert site.remembered() == {P: 3000}
