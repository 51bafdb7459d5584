"""The bounds of a redo in each Kafka partition: what is durable, and what an earlier owner may have written."""

from collections.abc import Collection, Mapping

from pipeline.records import KafkaPartition, Position


class RedoBounds:
    """Where the records lie that an earlier owner may have written, possibly not durably.

    They begin at the committed offset and end at the latest at the end that the log had at the assignment. One thread
    calls the methods that change something; any thread may ask.
    """

    def __init__(self) -> None:
        # Replaced and never changed, so that they can be read without a lock.
        self._committed: Mapping[KafkaPartition, int] = {}
        self._ends: Mapping[KafkaPartition, int] = {}

    def assigned(self, partitions: Mapping[KafkaPartition, int]) -> None:
        """These Kafka partitions are read from the given offsets on."""
        self._ends = {name: end for name, end in self._ends.items() if name not in partitions}
        self._committed = {**self._committed, **partitions}

    def dropped(self, partitions: Collection[KafkaPartition]) -> None:
        """These Kafka partitions belong to another worker."""
        self._committed = {name: offset for name, offset in self._committed.items() if name not in partitions}
        self._ends = {name: end for name, end in self._ends.items() if name not in partitions}

    def committed(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """Everything below these offsets is durable."""
        self._committed = {**self._committed, **{name: at for name, at in offsets.items() if name in self._committed}}

    def ended(self, ends: Mapping[KafkaPartition, int]) -> None:
        """Ends of the logs, read after the assignment."""
        self._ends = {**ends, **self._ends}

    @property
    def unended(self) -> Collection[KafkaPartition]:
        """Assigned Kafka partitions whose end is not known yet."""
        return self._committed.keys() - self._ends.keys()

    def durable(self, position: Position) -> bool:
        """Whether everything that this record has changed is durable. False where it is not known."""
        return position.offset < self._committed.get(position[:2], -1)

    def maybe_written(self, position: Position) -> bool:
        """Whether an earlier owner may have written this record. True where it is not known."""
        end = self._ends.get(position[:2])
        return end is None or position.offset < end
