"""The metrics of the workers, each declared once with its unit in its name."""

import threading
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Freshness must be readable from a fast path of 100 ms to an outage of ten minutes.
_FRESHNESS = (0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 120, 300, 600)
_KAFKA_PARTITION = ("topic", "partition")

OUTCOMES = ("written", "unchanged", "stale", "folded", "deleted", "dead_lettered")
"""How a consumed record can end; summed over all of them `ingest_records_total` equals the records finished."""
FlushRole: TypeAlias = Literal["leader", "stand_in", "finishing"]
"""Why a worker flushes: it flushes for all workers; it stands in for one that does not; it finishes its own run."""
SINK_OPERATIONS = ("upsert", "delete", "query", "flush", "create_partition")


class _Declarer:
    """Declares metrics in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(name, text, tuple(labels), registry=self._registry)

    def gauge(self, name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(name, text, tuple(labels), registry=self._registry)

    def histogram(self, name: str, text: str, buckets: Iterable[float], labels: Iterable[str] = ()) -> Histogram:
        return Histogram(name, text, tuple(labels), registry=self._registry, buckets=tuple(buckets))


class RecordOutcomes:
    """Finished records by outcome, counted here; the metric `ingest_records_total` follows."""

    def __init__(self, metric: Counter) -> None:
        self._metric = metric
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(OUTCOMES, 0)
        self.on_change: Callable[[int], None] = lambda _: None
        """Called with the number of finished records after each change, on the thread that changed it."""
        for outcome in OUTCOMES:
            metric.labels(outcome)

    def add(self, outcome: str, records: int) -> None:
        """Count records with an outcome of OUTCOMES."""
        with self._lock:
            self._counts[outcome] += records
            total = sum(self._counts.values())
        self._metric.labels(outcome).inc(records)
        self.on_change(total)

    def counts(self) -> dict[str, int]:
        """The records finished so far, by outcome."""
        with self._lock:
            return dict(self._counts)


class IngestMetrics:
    """The metrics of an ingest worker or a replay job."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        declare = _Declarer(registry)
        self._declare_kafka(declare)
        self._declare_batches(declare)
        self._declare_embedding(declare)
        self._declare_milvus(declare)
        self._start_at_zero()

    def _declare_kafka(self, declare: _Declarer) -> None:
        self.consumed = declare.counter("ingest_records_consumed_total", "Records read from Kafka.", _KAFKA_PARTITION)
        self.consumed_bytes = declare.counter("ingest_consumed_bytes_total", "Bytes of the records read.", ("topic",))
        self.lag_records = declare.gauge(
            "ingest_consumer_lag_records",
            "End offset minus committed offset; absent while Kafka does not answer.",
            _KAFKA_PARTITION,
        )
        self.assigned = declare.gauge("ingest_assigned_partitions", "Kafka partitions this worker owns.")
        self.rebalances = declare.counter("ingest_rebalances_total", "Changes of the assignment.", ("event",))
        self.progress = declare.gauge(
            "ingest_last_progress_timestamp_seconds", "Start of the last round of the consumer loop (epoch seconds)."
        )
        self.backpressure = declare.counter(
            "ingest_backpressure_seconds_total", "Time Kafka was paused by the byte budget."
        )
        self.buffered_bytes = declare.gauge("ingest_buffered_bytes", "Bytes of records read and not yet written.")
        self.oldest_unwritten = declare.gauge(
            "ingest_oldest_unwritten_age_seconds",
            "Age of the oldest record that is read and not yet acknowledged by Milvus; 0 without any.",
        )
        self.set_aside = declare.gauge(
            "ingest_set_aside_records", "Records whose document Milvus refuses in unlisted words; they are tried again."
        )
        self.set_aside_age = declare.gauge(
            "ingest_set_aside_age_seconds", "Since when the first of the records set aside is; 0 without any."
        )
        self.commits = declare.counter("ingest_offset_commits_total", "Offset commits.", ("status",))

    def _declare_batches(self, declare: _Declarer) -> None:
        self.batch_records = declare.histogram(
            "ingest_batch_records", "Records in a micro-batch.", (1, 10, 50, 100, 250, 500, 1000, 2500, 5000, 10000)
        )
        self.batches = declare.counter(
            "ingest_batches_total", "Micro-batches closed, by what closed them.", ("trigger",)
        )
        self.by_arrival = declare.counter(
            "ingest_arrival_decided_total",
            "Records taken for newer because they arrived later: several Kafka partitions, equal timestamps.",
        )
        self.restored = declare.counter(
            "ingest_restored_documents_total",
            "Documents between two versions whose record was rejected: brought back to the stored version, or not.",
            ("outcome",),
        )
        self.outcomes = RecordOutcomes(
            declare.counter("ingest_records_total", "Records finished, by how they ended.", ("outcome",))
        )
        self.dead_letters = declare.counter(
            "ingest_dlq_records_total", "Records written to the dead-letter topic and confirmed.", ("reason",)
        )
        self.retries = declare.counter("ingest_retries_total", "Attempts repeated after an outage.", ("stage",))
        self.freshness = declare.histogram(
            "ingest_freshness_seconds",
            "From the record's Kafka timestamp to Milvus's acknowledgement.",
            _FRESHNESS,
            ("to",),
        )

    def _declare_embedding(self, declare: _Declarer) -> None:
        self.embedding_seconds = declare.histogram(
            "ingest_embedding_duration_seconds", "Time of one embed call; two can be under way.", _SECONDS
        )
        self.embedding_tokens = declare.counter("ingest_embedding_tokens_total", "Tokens embedded, without padding.")
        self.embedding_chunks = declare.counter("ingest_embedding_chunks_total", "Chunks embedded.")
        self.embedding_reused = declare.counter(
            "ingest_embedding_reused_chunks_total", "Chunks not embedded: their text was stored, or twice in the batch."
        )
        self.build = declare.gauge("ingest_build_info", "Constant 1.", ("version", "model"))

    def _declare_milvus(self, declare: _Declarer) -> None:
        self.sink_seconds = declare.histogram(
            "ingest_sink_operation_duration_seconds", "Time of one call to Milvus.", _SECONDS, ("operation", "outcome")
        )
        self.sink_errors = declare.counter(
            "ingest_sink_errors_total", "Calls to Milvus that failed.", ("operation", "error_type")
        )
        self.tombstones = declare.counter("ingest_tombstones_swept_total", "Ledger rows of old deletes removed.")
        self.flushes = declare.counter(
            "ingest_flushes_total",
            "Flushes of the collection (with its ledger), by role and outcome.",
            ("role", "outcome"),
        )
        self.last_durable = declare.gauge(
            "ingest_last_durable_timestamp_seconds", "When records last became durable (epoch seconds)."
        )
        self.milvus_partitions = declare.gauge("ingest_milvus_partitions", "Milvus partitions of the collection.")

    def observe_sink(self, operation: str, seconds: float, error: Exception | None) -> None:
        """Count one call to Milvus."""
        self.sink_seconds.labels(operation, "error" if error else "ok").observe(seconds)
        if error is not None:
            self.sink_errors.labels(operation, type(error).__name__).inc()

    def observe_flush(self, role: FlushRole, ok: bool) -> None:
        """Count one flush of everything this worker writes to."""
        self.flushes.labels(role, "ok" if ok else "postponed").inc()

    def _start_at_zero(self) -> None:
        """Rates and ratios exist before the first event only if the label sets do."""
        for status in ("ok", "error"):
            self.commits.labels(status)
        for event in ("assigned", "revoked", "lost"):
            self.rebalances.labels(event)
        for trigger in ("records", "bytes", "age", "drain"):
            self.batches.labels(trigger)
        for operation in SINK_OPERATIONS:
            self.sink_seconds.labels(operation, "ok")
            self.sink_seconds.labels(operation, "error")
        for role in get_args(FlushRole):
            self.flushes.labels(role, "ok")
            self.flushes.labels(role, "postponed")
        self.freshness.labels("acked")


class QueryMetrics:
    """The metrics of a query worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        declare = _Declarer(registry)
        self.requests = declare.counter("query_requests_total", "Searches answered.", ("outcome",))
        self.seconds = declare.histogram("query_duration_seconds", "Time of a search, by phase.", _SECONDS, ("phase",))
        self.results = declare.histogram(
            "query_results", "Results of a search.", (0, 1, 2, 5, 10, 20, 50, 100, 500, 1000)
        )
        self.canary_seconds = declare.histogram(
            "milvus_stream_canary_seconds", "From the publishing of a canary to a search that finds it.", _FRESHNESS
        )
        self.canary_failures = declare.counter(
            "milvus_stream_canary_failures_total", "Canaries that could not be published, or not be found in time."
        )
        self.documents = declare.counter("query_documents_total", "Reads of one document answered.", ("outcome",))
        self.rerank_failures = declare.counter(
            "query_rerank_failures_total", "Searches whose results were not reranked as they should.", ("reason",)
        )
        for reason in ("timeout", "overloaded", "failed"):
            self.rerank_failures.labels(reason)
        for outcome in ("ok", "invalid", "overloaded", "unavailable", "late", "timeout", "error"):
            self.requests.labels(outcome)
        for outcome in ("ok", "invalid", "overloaded", "unavailable", "timeout", "error", "not_found"):
            self.documents.labels(outcome)
        for phase in ("embed", "wait", "search", "rerank", "total"):
            self.seconds.labels(phase)
