"""The offsets that may be committed: for each Kafka partition the lowest one that is not finished and remembered."""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping

from pipeline.records import KafkaPartition, Position, Reached

_OPEN = 1
_ACKED = 2
_DONE = 3
_LARGEST_HOLE = 1_024
_TRIM_AT = 65_536


class _Run:
    """A run of offsets: one byte each, 0 where the topic has a hole (compaction, transactions)."""

    __slots__ = ("acked", "first", "head", "states")

    def __init__(self, first: int) -> None:
        self.first = first
        self.states = bytearray()
        self.head = 0
        """No offset below it is unfinished."""
        self.acked = 0
        """No offset below it is open; at or above `head`."""

    def lowest_open(self) -> int | None:
        """Return the lowest offset that is not acknowledged, None if all are. Costs one byte scan in C."""
        index = self.states.find(_OPEN, max(self.acked, self.head))
        self.acked = len(self.states) if index < 0 else index
        return None if index < 0 else self.first + index

    def advance(self) -> int | None:
        """Return the lowest unfinished offset, None if all are finished. Costs two byte scans in C."""
        opened = self.lowest_open()
        end = self.acked
        index = self.states.find(_ACKED, self.head, end)
        if index < 0:
            if opened is None:
                return None
            index = end
        self.head = index
        if index >= _TRIM_AT and index * 2 >= len(self.states):
            del self.states[:index]
            self.first += index
            self.acked -= index
            self.head = 0
        return self.first + self.head


class _Log:
    """The offsets taken from one Kafka partition, in runs without large holes."""

    __slots__ = ("assignment", "committed", "next", "open", "runs", "secured")

    def __init__(self, position: int, assignment: int) -> None:
        self.assignment = assignment
        self.committed = position
        self.secured = position
        self.next = position
        self.open = 0
        self.runs: list[_Run] = []

    def take(self, offset: int) -> None:
        if offset < self.next:
            raise ValueError(f"offset {offset} was taken after {self.next - 1}: assigned() must announce a rewind")
        hole = offset - self.next
        if not self.runs or hole > _LARGEST_HOLE:
            self.runs.append(_Run(offset))
        elif hole:
            self.runs[-1].states.extend(bytes(hole))
        self.runs[-1].states.append(_OPEN)
        self.next = offset + 1
        self.open += 1

    def mark(self, offset: int, state: int) -> None:
        """Set the state of an offset, which only rises."""
        runs = self.runs
        if not runs:
            return
        run = runs[-1]
        if offset < run.first:
            place = bisect_right(runs, offset, key=_first)
            if not place:
                return
            run = runs[place - 1]
        index = offset - run.first
        states = run.states
        if index < len(states) and 0 < states[index] < state:
            states[index] = state
            if state == _DONE:
                self.open -= 1

    def reached(self) -> int:
        """Return the lowest offset that is not acknowledged."""
        for run in self.runs:
            lowest = run.lowest_open()
            if lowest is not None:
                return lowest
        return self.next

    def lowest(self) -> int:
        """Return the lowest offset that is not finished: the one to commit."""
        finished = 0
        lowest: int | None = None
        for run in self.runs:
            lowest = run.advance()
            if lowest is not None:
                break
            finished += 1
        del self.runs[:finished]
        return self.next if lowest is None else lowest


def _first(run: _Run) -> int:
    return run.first


class OffsetTracker:
    """The offsets of the assigned Kafka partitions between being read and being finished. Not thread-safe; no I/O.

    Records finish in any order; only the unbroken run from the start may be committed. Offsets may have holes. Costs
    one byte for each outstanding record.

    With `remembered`, two runs are kept: of the records that the store has acknowledged (`reached`), and of those that
    are durable. An offset may be committed only up to a position that the store remembers durably (`secured`).
    """

    def __init__(self, *, remembered: bool = False) -> None:
        self._logs: dict[KafkaPartition, _Log] = {}
        self._remembered = remembered
        self._assignments = 0

    def assigned(self, positions: Mapping[KafkaPartition, int]) -> None:
        """Begin at these offsets (the committed ones); earlier state of these Kafka partitions is forgotten."""
        for partition, position in positions.items():
            self._assignments += 1
            self._logs[partition] = _Log(position, self._assignments)

    def taken(self, positions: Iterable[Position]) -> None:
        """Take records, in the order of each Kafka partition. Raises ValueError if an offset goes back."""
        logs = self._logs
        name: KafkaPartition | None = None
        log: _Log | None = None
        for topic, partition, offset in positions:
            if name is None or name[1] != partition or name[0] != topic:
                name = (topic, partition)
                log = logs.get(name)
            if log is None:
                raise ValueError(f"a record of {topic}/{partition} was taken, which is not assigned")
            log.take(offset)

    def acked(self, positions: Iterable[Position]) -> None:
        """Record that the store has acknowledged these records, which are not durable yet; else as `done`."""
        self._mark(positions, _ACKED)

    def done(self, positions: Iterable[Position]) -> None:
        """Finish these records; those of a Kafka partition that was revoked since are ignored."""
        self._mark(positions, _DONE)

    def _mark(self, positions: Iterable[Position], state: int) -> None:
        logs = self._logs
        name: KafkaPartition | None = None
        log: _Log | None = None
        for topic, partition, offset in positions:
            if name is None or name[1] != partition or name[0] != topic:
                name = (topic, partition)
                log = logs.get(name)
            if log is not None:
                log.mark(offset, state)

    def reached(self) -> dict[KafkaPartition, Reached]:
        """Return how far the store has acknowledged each Kafka partition, where that is past the committed offset."""
        reached: dict[KafkaPartition, Reached] = {}
        for partition, log in self._logs.items():
            offset = log.reached()
            if offset > log.committed:
                reached[partition] = Reached(offset, log.assignment)
        return reached

    def secured(self, positions: Mapping[KafkaPartition, Reached]) -> None:
        """Record that the store remembers these positions durably; those of a former assignment are ignored."""
        for partition, reached in positions.items():
            log = self._logs.get(partition)
            if log is not None and log.assignment == reached.assignment:
                log.secured = max(log.secured, reached.offset)

    def committable(self) -> dict[KafkaPartition, int]:
        """Return the offset to commit of each Kafka partition where it is past the last committed one."""
        offsets: dict[KafkaPartition, int] = {}
        for partition, log in self._logs.items():
            lowest = min(log.lowest(), log.secured) if self._remembered else log.lowest()
            if lowest > log.committed:
                offsets[partition] = lowest
        return offsets

    def committed(self, offsets: Mapping[KafkaPartition, int]) -> None:
        """Record commits that the broker has confirmed."""
        for partition, offset in offsets.items():
            log = self._logs.get(partition)
            if log is not None:
                log.committed = max(log.committed, offset)

    def dropped(self, partitions: Collection[KafkaPartition]) -> None:
        """Forget Kafka partitions that belong to another worker now."""
        for partition in partitions:
            self._logs.pop(partition, None)

    def unremembered(self) -> bool:
        """Whether finished records wait for the store to remember their position durably."""
        return self._remembered and any(log.lowest() > log.secured for log in self._logs.values())

    def outstanding(self, partition: KafkaPartition | None = None) -> int:
        """Count the records taken and not finished, of one Kafka partition or of all."""
        if partition is not None:
            log = self._logs.get(partition)
            return 0 if log is None else log.open
        return sum(log.open for log in self._logs.values())
