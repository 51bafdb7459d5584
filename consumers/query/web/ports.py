"""What the page reads beside searches. A part that is absent (None in `Page`) has no link and no panel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.query import PartitionState, SearchAnswer, SearchReport


@dataclass(frozen=True, slots=True)
class WholeDocument:
    """The current version of a document."""

    doc_id: str
    text: str
    event_time: str
    """RFC 3339, UTC."""
    metadata: Mapping[str, Any]
    complete: bool = True
    """False: chunks are missing, as while the document is being changed."""


class Documents(Protocol):
    """Documents by their ids."""

    async def document(self, doc_id: str, *, tenant: str | None) -> WholeDocument | None:
        """The document, None where there is none of this tenant; raises Unavailable."""


class Similar(Protocol):
    """Documents that are like a stored one."""

    async def similar(
        self,
        body: object,
        *,
        admit: Callable[[], None],
        report: Callable[[SearchReport], None],
        tenant: str | None,
    ) -> SearchAnswer:
        """As `DocumentService.similar`."""


class Marks(Protocol):
    """The words of a text that a query matched."""

    def __call__(self, query: str, text: str) -> Sequence[tuple[int, int]]:
        """Half-open ranges of characters, in order, that do not overlap."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How recent what searches see is."""

    searchable_until_ms: int | None
    """All that was published before this time (epoch milliseconds) can be found; None: unknown."""
    lag_records: int | None
    """Records published and not stored yet; None: unknown."""
    problem: str = ""
    """Why something is unknown, for readers of the page."""


class FreshnessSource(Protocol):
    """What a moment ago was known of freshness."""

    async def freshness(self) -> Freshness:
        """The last values; answers within a second, whatever Kafka does."""


@dataclass(frozen=True, slots=True)
class KafkaPartitionState:
    """The group's place in one Kafka partition."""

    topic: str
    partition: int
    committed: int | None
    """None: nothing yet."""
    end: int
    lag: int


@dataclass(frozen=True, slots=True)
class DeadLetterSample:
    """One rejected record."""

    topic: str
    partition: int
    offset: int
    """Where the record was read."""
    reason: str
    message: str
    record: str
    """Its value as printable text, cut to some thousand characters."""


@dataclass(frozen=True, slots=True)
class PipelineState:
    """The ingest pipeline as Kafka and Milvus show it from outside."""

    kafka_partitions: Sequence[KafkaPartitionState] = ()
    records_per_s: float | None = None
    """Between the last two readings, by committed offsets; None: there was one reading."""
    last_flush_ms: int | None = None
    """Epoch milliseconds."""
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    """Count by reason, of the last ones read."""
    samples: Sequence[DeadLetterSample] = ()
    """Some of the last ones."""
    workers: Sequence[str] | None = None
    """Members of the group; None: unknown."""


class ReadsPipeline(Protocol):
    """Reads the state of the pipeline; called on a thread, a few times a minute at most."""

    def __call__(self) -> PipelineState:
        """The state now; raises MilvusStreamError."""


class ReadsPartitions(Protocol):
    """Reads the Milvus partitions; called on a thread, a few times a minute at most."""

    def __call__(self) -> Sequence[PartitionState]:
        """The partitions now, the earliest first; raises MilvusStreamError."""
