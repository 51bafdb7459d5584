"""The offsets of a consumer group in memory."""

import threading
from collections.abc import Mapping

from pipeline.records import KafkaPartition


class FakeOffsets:
    """Implements `OffsetReader`; `error` is raised by every call while it is set. `free`: cleared, calls wait."""

    group = "group"

    def __init__(self, partitions: int = 1, topic: str = "topic") -> None:
        self.topics = (topic,)
        self.topic_ids: Mapping[str, str] = {topic: "id"}
        self.counts = {topic: partitions}
        self.commits: dict[KafkaPartition, int] = {}
        self.ends: dict[KafkaPartition, int] = {}
        self.error: Exception | None = None
        self.free = threading.Event()
        self.free.set()
        self.reads = 0
        self.topic_reads = 0
        self.range_reads = 0
        self.closed = False
        self.read = threading.Event()
        """Set by each read of the commits."""

    def partitions(self) -> Mapping[str, int]:
        self.topic_reads += 1
        self._answer()
        return dict(self.counts)

    def committed(self) -> Mapping[KafkaPartition, int]:
        self.reads += 1
        self.read.set()
        self._answer()
        return dict(self.commits)

    def ranges(self) -> Mapping[KafkaPartition, tuple[int, int]]:
        self.range_reads += 1
        self._answer()
        names = [(topic, number) for topic, count in self.counts.items() for number in range(count)]
        return {name: (0, self.ends.get(name, 0)) for name in names}

    def close(self) -> None:
        self.closed = True

    def _answer(self) -> None:
        assert self.free.wait(10)
        if self.error is not None:
            raise self.error
