"""The rekey stage: one member of a consumer group of its own, from poll to committed transaction."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from consumers.kafka import KafkaSource, RebalanceHandler, suspend_clock
from consumers.rekey.forwarding import Forwarded, Forwarder
from consumers.rekey.metrics import RekeyMetrics
from pipeline.backoff import Backoff
from pipeline.errors import MilvusStreamError, Unavailable
from pipeline.records import KafkaPartition, SourceRecord

log = structlog.get_logger(__name__)

_POLL_S = 0.2
_LAG_S = 5.0
_LAG_AGE_S = 15.0
_STALLED_S = 180.0
"""A loop without a round for this long is dead. Longer than the time limit of a commit."""
_RETRY = Backoff(first_s=0.5, cap_s=30.0)
_CUT_NOTE = "truncated-"

Identify = Callable[[SourceRecord], tuple[str | None, str] | None]
"""Tenant and doc_id of a record; None where it names no document."""


@dataclass(frozen=True, slots=True)
class RekeySummary:
    """What a run did."""

    forwarded: Mapping[str, int]
    """Records by outcome."""
    seconds: float

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {"forwarded": dict(self.forwarded), "seconds": round(self.seconds, 3)}


class RekeyStage(RebalanceHandler):
    """Forwards records until it is stopped or fails.

    Ingest needs all records of a document in one Kafka partition, in order. Where producers set no key, another key, or
    use different partitioners, this stage gives every record its document's id as key. The order within a source
    partition is kept; between source partitions the order of arrival becomes the order. A record that names no document
    keeps its key. Records are forwarded exactly once for readers of committed transactions.
    """

    def __init__(self, source: KafkaSource, forwarder: Forwarder, identify: Identify, metrics: RekeyMetrics) -> None:
        self._source = source
        self._forwarder = forwarder
        self._identify = identify
        self._metrics = metrics
        self._owned: frozenset[KafkaPartition] = frozenset()
        self._counts: Counter[str] = Counter()
        self._problem: str | None = None
        self._last_round = time.monotonic()
        self._last_lag = float("-inf")
        self._failures = 0
        self._reread_due = False
        """Records were read that no committed transaction contains: nothing behind them may be forwarded."""

    def run(self, stop: threading.Event) -> RekeySummary:
        """Read and forward until `stop`. Raises the first error that waiting does not end."""
        started = time.monotonic()
        try:
            self._source.start(self)
            while not stop.is_set():
                self._round(stop)
        finally:
            self._forwarder.close()
            self._source.close(5.0)
        return RekeySummary(dict(self._counts), time.monotonic() - started)

    def _round(self, stop: threading.Event) -> None:
        self._last_round = time.monotonic()
        self._metrics.progress.set(time.time())
        if self._reread_due:
            self._reread(stop)
        # Polled in any case: the group waits for that, and it raises what has ended the source.
        records = [record for record in self._source.poll(_POLL_S) if record.position[:2] in self._owned]
        if records and not self._reread_due:
            try:
                self._forward(records)
            except Unavailable as error:
                self._metrics.transactions.labels("aborted").inc()
                self._reread_due = True
                self._wait(error, stop)
        if time.monotonic() - self._last_lag >= _LAG_S:
            self._observe_lag()

    def _forward(self, records: Sequence[SourceRecord]) -> None:
        forwarded = [self._keyed(record) for record in records]
        self._forwarder.forward([entry for _, entry in forwarded])
        outcomes = Counter(outcome for outcome, _ in forwarded)
        self._counts.update(outcomes)
        self._metrics.transactions.labels("committed").inc()
        for outcome, count in outcomes.items():
            self._metrics.records.labels(outcome).inc(count)
        if self._problem is not None:
            log.info("rekey.available")
        self._failures, self._problem = 0, None

    def _reread(self, stop: threading.Event) -> None:
        """Begin again at the committed offsets; wait if they cannot be read."""
        try:
            self._source.reread()
        except Unavailable as error:
            self._wait(error, stop)
        else:
            self._reread_due = False

    def _wait(self, error: Unavailable, stop: threading.Event) -> None:
        """Wait after a failure, longer after each one in a row."""
        self._failures += 1
        self._problem = str(error)
        log.warning("rekey.unavailable", why=self._problem, what="the records are read again")
        stop.wait(_RETRY.delay_s(self._failures, random.random()))  # noqa: S311 - jitter

    def _keyed(self, record: SourceRecord) -> tuple[str, Forwarded]:
        _refuse_cut(record)
        identity = self._identify(record)
        if identity is None:
            return "untouched", Forwarded(record, record.key)
        key = identity[1].encode()
        return ("unchanged" if key == record.key else "keyed"), Forwarded(record, key)

    def _observe_lag(self) -> None:
        self._last_lag = time.monotonic()
        for (topic, partition), lag in self._source.lag().items():
            if self._last_lag - lag.measured_at > _LAG_AGE_S:
                self._forget_lag([(topic, partition)])
            else:
                self._metrics.lag.labels(topic, partition).set(max(0, lag.end - (lag.committed or 0)))

    def _forget_lag(self, partitions: Collection[KafkaPartition]) -> None:
        for topic, partition in partitions:
            with suppress(KeyError):  # it was never observed
                self._metrics.lag.remove(topic, str(partition))

    # --- the group (called by the source from inside poll: no transaction is open then) ------------------------------

    def on_assigned(self, partitions: Mapping[KafkaPartition, int]) -> None:
        """Forward the records of these Kafka partitions, too."""
        self._owned |= partitions.keys()
        log.info("kafka.assigned", partitions=sorted(f"{topic}/{number}" for topic, number in partitions))

    def drain(self, partitions: Collection[KafkaPartition]) -> bool:
        """Nothing is under way between two rounds."""
        return True

    def committable(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        """Nothing: every transaction commits its own offsets."""
        return {}

    def on_revoked(self, partitions: Collection[KafkaPartition]) -> None:
        """These Kafka partitions belong to another member after this call."""
        self._owned -= frozenset(partitions)
        self._forget_lag(partitions)

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        """Nothing is under way between two rounds."""
        return False

    def on_lost(self, partitions: Collection[KafkaPartition]) -> None:
        """These have belonged to another member for some time."""
        self.on_revoked(partitions)

    # --- for observers -------------------------------------------------------------------------------------------

    def alive(self) -> Mapping[str, str]:
        """Problems for the liveness probe: only a loop that hangs."""
        age = time.monotonic() - self._last_round
        return {"loop": f"the loop has not come round for {age:.0f} s"} if age > _STALLED_S else {}

    def ready(self) -> Mapping[str, str]:
        """Problems for the readiness probe: what cannot be used at the moment."""
        problems = {} if self._problem is None else {"transactions": self._problem}
        silent_s = suspend_clock() - self._source.last_heartbeat()
        if silent_s > self._source.session_s:
            problems["kafka"] = "this stage is no member of its group, or the broker is away"
        return problems


def _refuse_cut(record: SourceRecord) -> None:
    """Raise MilvusStreamError for a record that was cut while it was read: it must not be forwarded in part."""
    defect = record.defect
    if defect is not None and any(name.startswith(_CUT_NOTE) for name, _ in defect.notes):
        position = "{}/{}/{}".format(*record.position)
        raise MilvusStreamError(
            f"the record at {position} is too large to be forwarded: {defect.message}. Raise "
            "kafka.max_record_bytes and batch.buffer_bytes above its size; nothing behind it was forwarded"
        )
