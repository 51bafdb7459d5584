"""What a replay would do, found out before it begins. Times are Kafka's record timestamps, half-open."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b

from consumers.kafka import KafkaSettings, read_range
from consumers.replay.range import ReplayRange, ReplaySpan, replay_span
from pipeline.chunking import Chunker
from pipeline.errors import UsageError
from pipeline.intake import Decoder
from pipeline.records import Chunk, KafkaPartition, Put
from pipeline.timestamps import rfc3339_microseconds

_SAMPLE = 20
"""Records read at the beginning, the middle and the end of each Kafka partition's range for the estimate."""
_SAMPLE_TOTAL = 1_000
_TIMED_CHUNKS = 64
"""Embedded to learn the model's speed: a second or so on a processor."""


@dataclass(frozen=True, slots=True)
class ReplayTimes:
    """Kafka timestamps [from_ms, to_ms), epoch milliseconds."""

    from_ms: int
    to_ms: int

    def text(self) -> tuple[str, str]:
        """Both as RFC 3339."""
        first, last = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (self.from_ms, self.to_ms))
        return _rfc3339(first), _rfc3339(last)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is to be expected of one Kafka partition, by a sample of its records."""

    bytes: int
    """Keys, values and headers."""
    chunks: int
    """Rows and embeddings, if no document is stored already and none is overwritten within a batch."""


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What a replay would do, known before it begins."""

    collection: str
    live: bool
    """Whether it is the collection of the live group."""
    times: ReplayTimes
    span: ReplaySpan
    estimates: Mapping[KafkaPartition, Estimate]
    chunks_per_s: float | None = None
    """The model's speed on the sampled chunks; None where the sample had none."""
    rate: float | None = None
    """Records a second at most."""

    @property
    def minutes(self) -> float | None:
        """How long it may take: by the model's speed or by the rate, whichever is slower; None: unknown."""
        chunks = sum(each.chunks for each in self.estimates.values())
        seconds = [] if self.chunks_per_s is None else [chunks / self.chunks_per_s]
        seconds += [] if self.rate is None else [self.records / self.rate]
        return max(seconds) / 60 if seconds else None

    @property
    def records(self) -> int:
        """Records to be read, at most."""
        return sum(found.records for found in self.span.ranges.values())

    def as_dict(self) -> dict[str, object]:
        """For `--dry-run --json`."""
        first, last = self.times.text()
        partitions = [self._partition(name, found) for name, found in sorted(self.span.ranges.items())]
        return {
            "collection": self.collection,
            "live": self.live,
            "from": first,
            "to": last,
            "group": self.span.group_id,
            "resumed": self.span.resumed,
            "records": self.records,
            "estimated_bytes": sum(each.bytes for each in self.estimates.values()),
            "estimated_chunks": sum(each.chunks for each in self.estimates.values()),
            "estimated_minutes": None if self.minutes is None else round(self.minutes, 2),
            "max_records_per_s": self.rate,
            "partitions": partitions,
            "warnings": self.warnings(),
        }

    def warnings(self) -> list[str]:
        """What the user should know before it begins."""
        notes = []
        for (topic, number), found in sorted(self.span.ranges.items()):
            if found.cut_short:
                notes.append(
                    f"{topic}/{number}: the log begins at offset {found.log_start}, later than --from: some of the "
                    f"{found.log_start} offsets before it may have been in the range and are gone (retention)"
                )
            if found.left_to_group:
                notes.append(
                    f"{topic}/{number}: {found.left_to_group} offsets of the range from {found.end} on are left out: "
                    "the live group has not committed them yet and will write them itself"
                )
        return notes

    def _partition(self, name: KafkaPartition, found: ReplayRange) -> dict[str, object]:
        estimate = self.estimates.get(name, Estimate(0, 0))
        return {
            "topic": name[0],
            "partition": name[1],
            "start": found.start,
            "position": found.position,
            "end": found.end,
            "records": found.records,
            "estimated_bytes": estimate.bytes,
            "estimated_chunks": estimate.chunks,
        }


def replay_times(from_: str, to: str) -> ReplayTimes:
    """Read `--from` and `--to`. Raises UsageError for what is no RFC 3339 time and for an empty or reversed range."""
    times = ReplayTimes(_time_ms("--from", from_), _time_ms("--to", to))
    if times.from_ms >= times.to_ms:
        what = "is empty: --to is exclusive" if times.from_ms == times.to_ms else "ends before it begins"
        raise UsageError(f"the range --from {from_} --to {to} {what}; give a --to that is later than --from")
    return times


def _rfc3339(moment: datetime) -> str:
    spec = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=spec).replace("+00:00", "Z")


def _time_ms(option: str, text: str) -> int:
    try:
        microseconds = rfc3339_microseconds(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r} {error}") from None
    if microseconds < 0:
        raise UsageError(f"{option} {text!r} lies before 1970")
    return -(-microseconds // 1000)  # Kafka's times are milliseconds: the first one at or after the given moment


def group_name(group_id: str, collection: str, topics: Collection[str], times: ReplayTimes) -> str:
    """The group that keeps the position: the same for the same replay, so that a restarted one resumes."""
    parts = [group_id, collection, *sorted(topics), str(times.from_ms), str(times.to_ms)]
    digest = blake2b("\0".join(parts).encode(), digest_size=6).hexdigest()
    return f"{group_id}.replay.{digest}"


def plan_replay(
    kafka: KafkaSettings,
    times: ReplayTimes,
    collection: str,
    *,
    live: bool,
    decoder: Decoder,
    chunker: Chunker,
    embed: Callable[[Sequence[Chunk]], object],
    now_ms: int,
    rate: float | None = None,
) -> ReplayPlan:
    """Find the range and estimate it from a sample; changes nothing. See `replay_span` for the errors.

    `live`: the group of `kafka` writes `collection` as well, so what it has not committed yet is left to it.
    """
    group = group_name(kafka.group_id, collection, kafka.topics, times)
    span = replay_span(kafka, times.from_ms, times.to_ms, group, behind_group=live)
    estimates, sample = _estimates(kafka, span, decoder, chunker, now_ms)
    return ReplayPlan(collection, live, times, span, estimates, _speed(embed, sample[:_TIMED_CHUNKS]), rate)


def _speed(embed: Callable[[Sequence[Chunk]], object], sample: Sequence[Chunk]) -> float | None:
    """Chunks a second; the first call of a model is slower than later ones, so it is not the one that is timed."""
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
    each = max(1, min(_SAMPLE, _SAMPLE_TOTAL // max(1, len(to_read))))
    seen: Counter[KafkaPartition] = Counter()
    sizes: Counter[KafkaPartition] = Counter()
    chunks: Counter[KafkaPartition] = Counter()
    for windows in sample_windows(to_read, each):
        for record in read_range(kafka, windows):
            name = record.position[:2]
            operation = decoder.decode(record, now_ms)
            seen[name] += 1
            sizes[name] += record.size
            if isinstance(operation, Put):
                cut = chunker.chunk([operation.document.text])[0]
                chunks[name] += len(cut)
                sample += cut
    estimates = {
        name: Estimate(
            round(sizes[name] * found.records / max(1, seen[name])),
            round(chunks[name] * found.records / max(1, seen[name])),
        )
        for name, found in to_read.items()
    }
    return estimates, sample


def sample_windows(
    to_read: Mapping[KafkaPartition, ReplayRange], each: int
) -> Sequence[Mapping[KafkaPartition, tuple[int, int]]]:
    """Up to three windows of `each` offsets in every range: its beginning, middle and end, without overlap."""
    result: list[dict[KafkaPartition, tuple[int, int]]] = [{}, {}, {}]
    for name, found in to_read.items():
        after = found.position
        middle = found.position + (found.records - each) // 2
        for windows, start in zip(result, (found.position, middle, found.end - each), strict=True):
            begin = max(after, start)
            after = max(after, min(found.end, start + each))
            if begin < after:
                windows[name] = (begin, after)
    return [windows for windows in result if windows]
