"""The state of the ingest pipeline as the page of the query worker shows it, read from outside."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing

from consumers.config import Settings
from consumers.dead_letters import DeadLetter, decode_dead_letter
from consumers.kafka import (
    GroupMember,
    GroupWatch,
    KafkaSettings,
    MissingTopic,
    PartitionLag,
    group_lag,
    newest,
    topic_facts,
    topic_ranges,
)
from consumers.query.web.ports import DeadLetterSample, KafkaPartitionState, PipelineState
from consumers.wiring.connections import kafka_settings
from pipeline.errors import NotFound
from pipeline.store import Marks, MilvusServerApi
from pipeline.telemetry import printable

_READ = 50
"""Dead letters read back; each may have a megabyte."""
_SAMPLES = 10
_SHOWN_CHARS = 4_000


class PipelineReader:
    """Reads lag, rate, last flush, workers and the newest dead letters; for one thread.

    The dead letters are read again only when their topic has new ones.
    """

    def __init__(self, settings: Settings, api: MilvusServerApi, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises UsageError for an option that the Kafka client does not know."""
        self._kafka: KafkaSettings = kafka_settings(settings)
        self._topic = settings.kafka.dead_letter_topic
        self._marks = Marks(api, settings.milvus.collection)
        self._clock = clock
        self._last: tuple[float, int] | None = None
        """When offsets were read before, and the sum of those committed."""
        self._ends: object = None
        self._dead_letters: Sequence[DeadLetter] = ()

    def read(self) -> PipelineState:
        """The state now. Raises UsageError for a missing topic, Unavailable."""
        lags = group_lag(self._kafka)
        dead_letters = self._newest()
        return PipelineState(
            kafka_partitions=[
                KafkaPartitionState(lag.topic, lag.partition, lag.committed, lag.end, lag.lag) for lag in lags
            ],
            records_per_s=self._rate(lags),
            last_flush_ms=self._last_flush(),
            dead_letters=dict(Counter(dead_letter.reason for dead_letter in dead_letters).most_common()),
            samples=[_sample(dead_letter) for dead_letter in dead_letters[:_SAMPLES]],
            workers=self._workers(),
        )

    def _workers(self) -> Sequence[str]:
        with closing(GroupWatch(self._kafka)) as group:
            return [_worker(member) for member in group.members()]

    def _rate(self, lags: Sequence[PartitionLag]) -> float | None:
        """Offsets committed a second since the last reading."""
        now, committed = self._clock(), sum(lag.committed or 0 for lag in lags)
        before, self._last = self._last, (now, committed)
        if before is None or now <= before[0]:
            return None
        return max(0.0, (committed - before[1]) / (now - before[0]))

    def _last_flush(self) -> int | None:
        try:
            marks = self._marks.read("flush")
        except NotFound:
            return None  # no worker has filled the collection yet
        return max((mark.written_ms for mark in marks.values()), default=None)

    def _newest(self) -> Sequence[DeadLetter]:
        if isinstance(topic_facts(self._kafka, [self._topic])[self._topic], MissingTopic):
            return ()
        ends = topic_ranges(self._kafka, [self._topic])
        if ends != self._ends:
            self._dead_letters = [decode_dead_letter(record) for record in newest(self._kafka, self._topic, _READ)]
            self._ends = ends
        return self._dead_letters


def _worker(member: GroupMember) -> str:
    topics: dict[str, list[str]] = {}
    for topic, partition in member.partitions:
        topics.setdefault(topic, []).append(str(partition))
    assigned = "; ".join(f"{topic}/{', '.join(numbers)}" for topic, numbers in topics.items())
    return printable(f"{member.client_id} at {member.host}: {assigned or 'no Kafka partition'}")


def _sample(dead_letter: DeadLetter) -> DeadLetterSample:
    record = dead_letter.record
    return DeadLetterSample(
        topic=dead_letter.topic or record.position.topic,
        partition=dead_letter.partition if dead_letter.partition is not None else record.position.partition,
        offset=dead_letter.offset if dead_letter.offset is not None else record.position.offset,
        reason=printable(dead_letter.reason),
        message=printable(dead_letter.message),
        record=_text(record.value),
    )


def _text(value: bytes | None) -> str:
    """A value as text that cannot steer a page or hide a part of itself, cut where it is long."""
    if value is None:
        return "(null)"
    text = value[: 4 * _SHOWN_CHARS].decode(errors="replace")
    shown = printable(text[:_SHOWN_CHARS], keep="\n\t")
    return shown if len(text) <= _SHOWN_CHARS and len(value) <= 4 * _SHOWN_CHARS else shown + " …"
