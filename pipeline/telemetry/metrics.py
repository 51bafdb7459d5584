"""Every metric, declared once with its unit in its name, and the set-up of logging."""

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Literal, TextIO, TypeAlias, get_args

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pipeline.telemetry.printable import printable

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Freshness must be readable from a fast path of 100 ms to an outage of ten minutes.
_FRESHNESS = (0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 120, 300, 600)
_FRAMES = 30
"""Most of one error in the log, the innermost."""
_MESSAGE_CHARACTERS = 500

OUTCOMES = ("written", "unchanged", "stale", "folded", "deleted", "dead_lettered")
"""How a consumed record can end; summed over all of them `ingest_records_total` equals the records finished."""
FlushRole: TypeAlias = Literal["leader", "stand_in", "finishing"]
"""Why a worker flushes: it is the one that flushes for all; nobody else does; it was asked to finish."""
SINK_OPERATIONS = ("upsert", "delete", "query", "flush", "create_partition")


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

        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(name, text, tuple(labels), registry=registry)

        def gauge(name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
            return Gauge(name, text, tuple(labels), registry=registry)

        def histogram(name: str, text: str, buckets: Iterable[float], labels: Iterable[str] = ()) -> Histogram:
            return Histogram(name, text, tuple(labels), registry=registry, buckets=tuple(buckets))

        kafka = ("topic", "partition")
        self.consumed = counter("ingest_records_consumed_total", "Records read from Kafka.", kafka)
        self.consumed_bytes = counter("ingest_consumed_bytes_total", "Bytes of the records read.", ("topic",))
        self.lag_records = gauge("ingest_consumer_lag_records", "End offset minus committed offset.", kafka)
        self.assigned = gauge("ingest_assigned_partitions", "Kafka partitions this worker owns.")
        self.rebalances = counter("ingest_rebalances_total", "Changes of the assignment.", ("event",))
        self.progress = gauge(
            "ingest_last_progress_timestamp_seconds", "When the consumer loop last went round (epoch seconds)."
        )
        self.backpressure = counter("ingest_backpressure_seconds_total", "Time Kafka was paused by the byte budget.")
        self.buffered_bytes = gauge("ingest_buffered_bytes", "Bytes of records read and not yet written.")
        self.batch_records = histogram(
            "ingest_batch_records", "Records in a micro-batch.", (1, 10, 50, 100, 250, 500, 1000, 2500, 5000, 10000)
        )
        self.batches = counter("ingest_batches_total", "Micro-batches closed, by what closed them.", ("trigger",))
        self.embedding_seconds = histogram(
            "ingest_embedding_duration_seconds", "Time of one embed call, of which two can be under way.", _SECONDS
        )
        self.embedding_tokens = counter("ingest_embedding_tokens_total", "Tokens embedded, without padding.")
        self.embedding_chunks = counter("ingest_embedding_chunks_total", "Chunks embedded.")
        self.embedding_reused = counter(
            "ingest_embedding_reused_chunks_total", "Chunks whose text was stored or stood twice: not embedded again."
        )
        self.by_arrival = counter(
            "ingest_arrival_decided_total",
            "Records taken for newer because they arrived later: topic created anew, key moved to another partition.",
        )
        self.sink_seconds = histogram(
            "ingest_sink_operation_duration_seconds", "Time of one call to Milvus.", _SECONDS, ("operation", "outcome")
        )
        self.sink_errors = counter(
            "ingest_sink_errors_total", "Calls to Milvus that failed.", ("operation", "error_type")
        )
        self.retries = counter("ingest_retries_total", "Attempts repeated after an outage.", ("stage",))
        self.outcomes = RecordOutcomes(
            counter("ingest_records_total", "Records finished, by how they ended.", ("outcome",))
        )
        self.tombstones = counter("ingest_tombstones_swept_total", "Ledger rows of old deletes removed.")
        self.dead_letters = counter("ingest_dlq_records_total", "Records sent to the dead-letter topic.", ("reason",))
        self.commits = counter("ingest_offset_commits_total", "Offset commits.", ("status",))
        self.flushes = counter(
            "ingest_flushes_total",
            "Flushes of the collection (with its ledger), by why and outcome.",
            ("role", "outcome"),
        )
        self.last_durable = gauge(
            "ingest_last_durable_timestamp_seconds", "When records last became durable (epoch seconds)."
        )
        self.freshness = histogram(
            "ingest_freshness_seconds", "From the record's Kafka timestamp to Milvus's answer.", _FRESHNESS, ("to",)
        )
        self.milvus_partitions = gauge("ingest_milvus_partitions", "Milvus partitions of the collection.")
        self.build = gauge("ingest_build_info", "Constant 1.", ("version", "model"))
        self._start_at_zero()

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
        self.requests = Counter("query_requests_total", "Searches answered.", ("outcome",), registry=registry)
        self.seconds = Histogram(
            "query_duration_seconds", "Time of a search, by phase.", ("phase",), registry=registry, buckets=_SECONDS
        )
        self.results = Histogram(
            "query_results", "Results of a search.", registry=registry, buckets=(0, 1, 2, 5, 10, 20, 50, 100, 500, 1000)
        )
        for outcome in ("ok", "invalid", "overloaded", "unavailable", "timeout", "error"):
            self.requests.labels(outcome)
        for phase in ("embed", "search", "total"):
            self.seconds.labels(phase)


def configure_logging(level: str, style: str, stream: TextIO = sys.stderr) -> None:
    """Send structlog's and every library's log lines to `stream`: JSON, or for people on a terminal.

    `style` auto picks text on a terminal and JSON elsewhere. Values are escaped in both, so a key or header with
    control characters cannot forge a line. A traceback names files, lines and errors, never the values of variables:
    among them are texts, vectors and filters.
    """
    text = style == "text" or (style == "auto" and stream.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        _shorten,
    ]
    if text:
        renderer: list[structlog.typing.Processor] = [
            _escape,
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=_write_traceback),
        ]
    else:
        renderer = [
            structlog.processors.ExceptionRenderer(_traceback_as_json),
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(ensure_ascii=True),
        ]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("pipeline", "consumers"):
        logging.getLogger(name).setLevel(level.upper())
    # It logs a full traceback at WARNING for every call while the server is away; failures are logged once, by us.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _shorten(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Keep one value from filling the log: 2,000 characters are enough to find the record again."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _cut(value, 2_000)
    return event


def _escape(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape every string: the renderer for people does so only for those with a blank or a quote."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = printable(value)
    return event


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + "…"


_frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=_FRAMES)


def _traceback_as_json(exc_info: structlog.typing.ExcInfo) -> list[dict[str, Any]]:
    links = _frames(exc_info)
    for link in links:
        link["exc_value"] = _cut(link["exc_value"], _MESSAGE_CHARACTERS)
    return links


def _write_traceback(stream: TextIO, error: structlog.typing.ExcInfo) -> None:
    """Write Python's own traceback, indented: a message of several lines cannot pass for log lines."""
    lines = "".join(traceback.format_exception(*error, limit=-_FRAMES)).splitlines()
    stream.writelines("\n    " + printable(_cut(line, _MESSAGE_CHARACTERS)) for line in lines)
