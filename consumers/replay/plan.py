"""The plan of a replay: its range, and an estimate of its work from a sample of the records."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from consumers.kafka import KafkaSettings, TimeRange, read_range
from consumers.replay.range import ReplayRange, ReplaySpan, replay_span
from pipeline.chunking import Chunker
from pipeline.intake import Decoder
from pipeline.records import Chunk, KafkaPartition, Put

_SAMPLE = 20
"""Records sampled at the beginning, the middle and the end of each Kafka partition's range."""
_SAMPLE_TOTAL = 1_000
_TIMED_CHUNKS = 64
"""Chunks embedded to measure the model's speed: about a second on a CPU."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimated work on one Kafka partition."""

    bytes: int
    """Keys, values and headers."""
    chunks: int
    """Rows and embeddings, if no document is stored already and none is replaced within a batch."""


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """A replay before it begins."""

    collection: str
    live: bool
    """Whether `collection` is that of the live group."""
    times: TimeRange
    span: ReplaySpan
    estimates: Mapping[KafkaPartition, Estimate]
    """Those of Kafka partitions that have something to read; empty until `estimate_work`."""
    chunks_per_s: float | None = None
    """The model's speed on the sampled chunks; None if the sample has none."""
    rate: float | None = None
    """Most records a second; None: no limit."""

    @property
    def minutes(self) -> float | None:
        """The estimated duration, by the slower of the model's speed and the rate; None: unknown."""
        chunks = sum(estimate.chunks for estimate in self.estimates.values())
        seconds = [] if self.chunks_per_s is None else [chunks / self.chunks_per_s]
        seconds += [] if self.rate is None else [self.records / self.rate]
        return max(seconds) / 60 if seconds else None

    @property
    def records(self) -> int:
        """Upper bound of the records to read."""
        return sum(offsets.records for offsets in self.span.ranges.values())

    def as_dict(self) -> dict[str, object]:
        """Return the plan for `--dry-run --json`."""
        first, last = self.times.text()
        partitions = [self._partition(name, offsets) for name, offsets in sorted(self.span.ranges.items())]
        return {
            "collection": self.collection,
            "live": self.live,
            "from": first,
            "to": last,
            "group": self.span.group_id,
            "resumed": self.span.resumed,
            "records": self.records,
            "estimated_bytes": sum(estimate.bytes for estimate in self.estimates.values()),
            "estimated_chunks": sum(estimate.chunks for estimate in self.estimates.values()),
            "estimated_minutes": None if self.minutes is None else round(self.minutes, 2),
            "max_records_per_s": self.rate,
            "partitions": partitions,
            "warnings": self.warnings(),
        }

    def warnings(self) -> list[str]:
        """Return warnings for the user about records that the replay leaves out."""
        warnings = []
        for (topic, number), offsets in sorted(self.span.ranges.items()):
            if offsets.cut_short:
                warnings.append(
                    f"{topic}/{number}: the log begins at offset {offsets.log_start}, later than --from: some of the "
                    f"{offsets.log_start} offsets before it may have been in the range and are gone (retention)"
                )
            if offsets.left_to_group:
                warnings.append(
                    f"{topic}/{number}: {offsets.left_to_group} offsets of the range from {offsets.end} on are left "
                    "out: the live group has not committed them yet and will write them itself"
                )
        return warnings

    def _partition(self, name: KafkaPartition, offsets: ReplayRange) -> dict[str, object]:
        estimate = self.estimates.get(name, Estimate(0, 0))
        return {
            "topic": name[0],
            "partition": name[1],
            "start": offsets.start,
            "position": offsets.position,
            "end": offsets.end,
            "records": offsets.records,
            "estimated_bytes": estimate.bytes,
            "estimated_chunks": estimate.chunks,
        }


def group_name(group_id: str, collection: str, topics: Collection[str], times: TimeRange) -> str:
    """Return the name of the group that keeps the position: a replay that is started again resumes by it."""
    parts = [group_id, collection, *sorted(topics), str(times.from_ms), str(times.to_ms)]
    digest = blake2b("\0".join(parts).encode(), digest_size=6).hexdigest()
    return f"{group_id}.replay.{digest}"


def plan_replay(
    kafka: KafkaSettings, times: TimeRange, collection: str, *, live: bool, rate: float | None = None
) -> ReplayPlan:
    """Plan a replay without changing anything, and without an estimate: that needs a model, the range does not.

    `live`: the group of `kafka` writes `collection`, too, so the records that it has not committed are left to it.
    Raises OffsetsLost, UsageError, Unavailable, as `replay_span`.
    """
    group = group_name(kafka.group_id, collection, kafka.topics, times)
    span = replay_span(kafka, times.from_ms, times.to_ms, group, behind_group=live)
    return ReplayPlan(collection, live, times, span, {}, rate=rate)


def estimate_work(
    plan: ReplayPlan,
    kafka: KafkaSettings,
    *,
    decoder: Decoder,
    chunker: Chunker,
    embed: Callable[[Sequence[Chunk]], object],
    now_ms: int,
) -> ReplayPlan:
    """Estimate the work of a plan from a sample of its records. Raises Unavailable, UsageError."""
    estimates, sample = _estimates(kafka, plan.span, decoder, chunker, now_ms)
    return replace(plan, estimates=estimates, chunks_per_s=_speed(embed, sample[:_TIMED_CHUNKS]))


def _speed(embed: Callable[[Sequence[Chunk]], object], sample: Sequence[Chunk]) -> float | None:
    """Measure the model in chunks a second; the first call is slower than later ones and is not measured."""
    if not sample:
        return None
    embed(sample[:1])
    began = time.perf_counter()
    embed(sample)
    return len(sample) / max(time.perf_counter() - began, 1e-6)


def _estimates(
    kafka: KafkaSettings, span: ReplaySpan, decoder: Decoder, chunker: Chunker, now_ms: int
) -> tuple[dict[KafkaPartition, Estimate], list[Chunk]]:
    sample: list[Chunk] = []
    to_read = span.to_read
    window = max(1, min(_SAMPLE, _SAMPLE_TOTAL // max(1, len(to_read))))
    seen: Counter[KafkaPartition] = Counter()
    sizes: Counter[KafkaPartition] = Counter()
    chunks: Counter[KafkaPartition] = Counter()
    for windows in sample_windows(to_read, window):
        for record in read_range(kafka, windows):
            name = record.position[:2]
            operation = decoder.decode(record, now_ms)
            seen[name] += 1
            sizes[name] += record.size
            if isinstance(operation, Put):
                document_chunks = chunker.chunk([operation.document.text])[0]
                chunks[name] += len(document_chunks)
                sample += document_chunks
    estimates = {
        name: Estimate(
            round(sizes[name] * offsets.records / max(1, seen[name])),
            round(chunks[name] * offsets.records / max(1, seen[name])),
        )
        for name, offsets in to_read.items()
    }
    return estimates, sample


def sample_windows(
    to_read: Mapping[KafkaPartition, ReplayRange], size: int
) -> Sequence[Mapping[KafkaPartition, tuple[int, int]]]:
    """Return up to three windows of `size` offsets in every range: its beginning, middle and end, without overlap."""
    result: list[dict[KafkaPartition, tuple[int, int]]] = [{}, {}, {}]
    for name, offsets in to_read.items():
        after = offsets.position
        middle = offsets.position + (offsets.records - size) // 2
        for windows, start in zip(result, (offsets.position, middle, offsets.end - size), strict=True):
            begin = max(after, start)
            after = max(after, min(offsets.end, start + size))
            if begin < after:
                windows[name] = (begin, after)
    return [windows for windows in result if windows]
