"""The checks of `doctor` on the offsets: what Kafka has committed against the log and against Milvus's memory."""

from collections.abc import Collection, Mapping
from contextlib import ExitStack

from typing_extensions import override

from consumers.cli.common.inventory import quick_kafka
from consumers.cli.doctor.findings import Findings
from consumers.config import Settings
from consumers.kafka import PositionMemory, start_problems
from consumers.wiring import connections
from consumers.wiring.ingest import position_memory, stored_topics
from pipeline.errors import MilvusStreamError
from pipeline.records import KafkaPartition
from pipeline.store import Marks, MilvusServerApi, StoredPositions, marks_name

CHECK = "kafka.offsets"
_BEFORE = ("kafka.reachable", "kafka.topics", "kafka.group")


def examine_positions(settings: Settings, findings: Findings) -> None:
    """Add what a worker would stop for at its start; left out where Kafka or the topics have a problem already."""
    if any(finding.check in _BEFORE and finding.level == "problem" for finding in findings):
        return
    kafka = quick_kafka(settings)
    with findings.checking(CHECK), ExitStack() as stack:
        memory = stored = None
        try:
            api = stack.enter_context(connections.milvus(settings))
        except MilvusStreamError:  # which `milvus.reachable` reports
            seen = "Kafka's offsets are within the log; Milvus could not be asked what it remembers"
        else:
            seen = "Kafka's offsets are within the log and not ahead of what Milvus remembers"
            memory, stored = _memory(settings, api), stored_topics(settings, api) if _is_there(settings, api) else None
        problems = start_problems(kafka, stored=stored, memory=memory)
        for problem in problems:
            do = "decide which, before a worker starts: it stops here rather than skip them"
            findings.problem(CHECK, str(problem), do)
        if not problems:
            findings.ok(CHECK, seen)


class _NoCollection(PositionMemory):
    """The memory of a collection that does not exist: it is empty, so whatever Kafka has committed is ahead of it."""

    @override
    def read(self, topic_ids: Mapping[str, str]) -> StoredPositions:
        return StoredPositions({}, {})

    @override
    def filled(self, topic: str) -> bool:
        return False

    @override
    def expect(self, commits: Mapping[KafkaPartition, int]) -> None:
        """Nothing is written that could be compared."""

    @override
    def begin(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """The first worker remembers it."""

    @override
    def assigned(self, positions: Mapping[KafkaPartition, int], uncommitted: Collection[KafkaPartition]) -> None:
        """Nothing is assigned."""

    @override
    def confirmed(self, partitions: Collection[KafkaPartition]) -> None:
        """Nothing is committed."""

    @override
    def released(self, partitions: Collection[KafkaPartition]) -> None:
        """Nothing was assigned."""

    @override
    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        return False


def _is_there(settings: Settings, api: MilvusServerApi) -> bool:
    return api.describe(settings.milvus.collection) is not None


def _memory(settings: Settings, api: MilvusServerApi) -> PositionMemory | None:
    """What Milvus remembers; None: a collection of a former version, whose next worker begins to remember."""
    name = settings.milvus.collection
    if api.describe(marks_name(name)) is None:
        return None if _is_there(settings, api) else _NoCollection()
    return position_memory(settings, quick_kafka(settings), api, Marks(api, name))
