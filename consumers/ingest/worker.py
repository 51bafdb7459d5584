"""The ingest worker: one process of the consumer group, from poll to commit.

Its loop runs in the thread that owns the Kafka consumer and never waits for work: it polls, hands batches to the flow,
takes receipts back and commits what has become durable.
"""

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from consumers.kafka import DeadLetterTopic, OffsetTracker, Source
from pipeline import failpoints
from pipeline.errors import Stopped
from pipeline.ingest.batching import BatchBuilder, BatchPolicy
from pipeline.ingest.flow import IngestFlow
from pipeline.records import KafkaPartition, Receipt, SourceRecord
from pipeline.store import FlushGovernor
from pipeline.telemetry.metrics import IngestMetrics

log = structlog.get_logger(__name__)

POLL_S = 0.2
"""Longest the loop waits in one poll: how late it notices a stop or a receipt."""
COMMIT_S = 1.0
"""Durable offsets are committed this often: what autoscalers and lag dashboards see."""
LAG_S = 5.0
NO_SHARE_S = 60.0
"""With --until-caught-up: a worker that got no Kafka partition in this time is one too many, and ends. Longer than the
session of a member that was killed."""
LAST_CALL_S = 0.02
"""Between two looks whether the last call has ended; it has a deadline."""
STALLED_S = 60.0
"""A loop that has not come round for this long is dead; longer than any wait inside a round (the drain at a revoke)."""


@dataclass(frozen=True, slots=True)
class WorkerPolicy:
    """How long the worker runs and how it ends."""

    batch: BatchPolicy
    buffer_bytes: int
    """Kafka is paused while more than this is read and not yet written, and resumed below half of it."""
    max_unflushed_records: int = 1_000_000
    """The same for records written and not yet durable, should flushes hang."""
    session_s: float = 45.0
    """Kafka counts as away when the group's coordinator has answered no heartbeat for this long."""
    shutdown_s: float = 30.0
    until_caught_up: bool = False
    max_records: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did."""

    consumed: int
    committed: Mapping[KafkaPartition, int]
    seconds: float
    clean: bool
    """Everything taken was finished and committed."""

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        committed = {f"{topic}/{number}": offset for (topic, number), offset in sorted(self.committed.items())}
        return {
            "consumed": self.consumed,
            "committed": committed,
            "seconds": round(self.seconds, 3),
            "clean": self.clean,
        }


class IngestWorker:
    """Runs until it is told to stop, has caught up, or fails."""

    def __init__(
        self,
        *,
        source: Source,
        flow: IngestFlow,
        governor: FlushGovernor,
        dead_letters: DeadLetterTopic,
        receipts: deque[Receipt],
        metrics: IngestMetrics,
        policy: WorkerPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._flow = flow
        self._governor = governor
        self._dead_letters = dead_letters
        self._receipts = receipts
        self._metrics = metrics
        self._policy = policy
        self._clock = clock
        self._builder = BatchBuilder(policy.batch)
        self._tracker = OffsetTracker()
        self._owned: frozenset[KafkaPartition] = frozenset()
        self._consumed = 0
        self._committed: dict[KafkaPartition, int] = {}
        self._target: dict[KafkaPartition, int] = {}
        self._paused_at: float | None = None
        self._started = clock()
        self._last_round = clock()
        self._last_commit = clock()
        self._last_lag = clock()

    # --- the loop ----------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> Summary:
        """Read, hand on and commit until `stop`; then finish within the shutdown deadline. Raises the first error."""
        self._started = self._clock()
        clean = False
        self._flow.start()
        self._governor.start()
        self._dead_letters.start()
        try:
            self._source.start(self)
            while not stop.is_set() and not self._done():
                self._round()
            clean = self._drain(stop)
        except Stopped:
            self._check()  # a stage has ended: its own error says more
            raise
        finally:
            self._stop_writing()
            self._governor.close(0)
            self._dead_letters.close(0)
            self._source.close(5.0)
        return Summary(self._consumed, dict(self._committed), self._clock() - self._started, clean)

    def _round(self) -> None:
        now = self._last_round = self._clock()
        self._metrics.progress.set(time.time())
        self._check()
        self._balance(now)
        due = self._builder.due_in(now)
        records = self._source.poll(POLL_S if due is None else min(POLL_S, due))
        if self._policy.max_records is not None:
            records = records[: self._policy.max_records - self._consumed]
        if records:
            failpoints.hit("polled")
            self._consumed += len(records)
            self._tracker.taken([record.position for record in records])
            for batch in self._builder.add(records, self._clock()):
                self._flow.submit(batch)
            self._count(records)
        for batch in self._builder.close_due(self._clock()):
            self._flow.submit(batch)
        self._settle()
        if now - self._last_commit >= COMMIT_S:
            self._commit()
        if now - self._last_lag >= LAG_S:
            self._observe_lag()

    def _check(self) -> None:
        self._flow.check()
        self._governor.check()
        self._dead_letters.check()

    def _balance(self, now: float) -> None:
        """Pause all Kafka partitions or none: kafka-python loses records when only some are paused."""
        held = self._flow.buffered_bytes + self._builder.size
        limit = self._policy.buffer_bytes
        unflushed = self._tracker.outstanding()
        if self._paused_at is None:
            if held > limit or unflushed > self._policy.max_unflushed_records or not self._dead_letters.has_room:
                self._source.pause()
                self._paused_at = now
                log.info("kafka.paused", buffered_bytes=held, unfinished_records=unflushed)
        elif held <= limit / 2 and unflushed <= self._policy.max_unflushed_records and self._dead_letters.has_room:
            self._source.resume()
            self._metrics.backpressure.inc(now - self._paused_at)
            log.info("kafka.resumed", paused_s=round(now - self._paused_at, 1))
            self._paused_at = None

    def _settle(self) -> None:
        while self._receipts:
            self._tracker.done(self._receipts.popleft().positions)

    def _commit(self) -> None:
        self._last_commit = self._clock()
        offsets = self._tracker.committable()
        if not offsets:
            return
        failpoints.hit("uncommitted")
        ok = self._source.commit(offsets)
        failpoints.hit("committed")
        self._metrics.commits.labels("ok" if ok else "error").inc()
        if ok:
            self._tracker.committed(offsets)
            self._committed.update(offsets)

    def _done(self) -> bool:
        if self._policy.max_records is not None and self._consumed >= self._policy.max_records:
            return True
        if not self._policy.until_caught_up:
            return False
        if not self._source.assignment():
            return not self._target and self._clock() - self._started > NO_SHARE_S
        lag = self._source.lag()
        missing = [p for p in self._source.assignment() if p not in self._target]
        if missing:
            self._target.update(self._source.ends(missing))
        return all(lag[p].position >= self._target[p] for p in self._source.assignment() if p in lag)

    # --- the end -----------------------------------------------------------------------------------------------

    def _drain(self, stop: threading.Event) -> bool:
        """Finish what was taken, make it durable, commit it. True if nothing is left.

        A run that ends by itself takes the time it needs; from a stop on it is the shutdown deadline.
        """
        deadline: float | None = None
        self._source.pause()
        for batch in self._builder.close():
            self._flow.submit(batch)
        log.info("worker.draining", unfinished_records=self._tracker.outstanding())
        asked = False
        while self._tracker.outstanding() and (deadline is None or self._clock() < deadline):
            if deadline is None and stop.is_set():
                deadline = self._clock() + self._policy.shutdown_s
            self._last_round = self._clock()
            self._check()
            self._source.poll(0.05)
            self._settle()
            if self._flow.idle and not asked:
                self._governor.request()
                asked = True
            if self._clock() - self._last_commit >= COMMIT_S:
                self._commit()
        self._settle()
        self._commit()
        left = self._tracker.outstanding()
        if left:
            log.warning("worker.cut_off", unfinished_records=left, what="they are read again by the next start")
        return left == 0

    def _stop_writing(self) -> None:
        """End the flow; a call under way is waited for, because others begin as soon as this member leaves."""
        owned = self._source.assignment()
        self._flow.abandon(owned)
        self._flow.close(0)
        while self._flow.writing(owned):
            time.sleep(LAST_CALL_S)

    # --- the group (called by the source from inside poll) ------------------------------------------------------

    def on_assigned(self, partitions: Mapping[KafkaPartition, int]) -> None:
        """Track these Kafka partitions from the given positions; what is stored of their keys must be read anew."""
        self._tracker.assigned(partitions)
        self._owned |= partitions.keys()
        self._flow.forget()
        self._metrics.rebalances.labels("assigned").inc()
        self._metrics.assigned.set(len(self._source.assignment()))
        log.info("kafka.assigned", partitions=_listed(partitions))

    def drain(self, partitions: Collection[KafkaPartition]) -> bool:
        """Whether nothing of these Kafka partitions is on its way to Milvus any more."""
        self._builder.discard(partitions)
        self._settle()
        return self._flow.unwritten(partitions) == 0

    def committable(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        """What may be committed of these Kafka partitions now."""
        self._settle()
        durable = self._tracker.committable()
        return {partition: durable[partition] for partition in partitions if partition in durable}

    def on_revoked(self, partitions: Collection[KafkaPartition]) -> None:
        """They belong to another worker after this call."""
        self._drop(partitions, "revoked")

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        """Whether a last call that writes records of these is under way; it has a deadline."""
        return self._flow.writing(partitions)

    def on_lost(self, partitions: Collection[KafkaPartition]) -> None:
        """They have belonged to another worker for some time: nothing may be committed."""
        self._drop(partitions, "lost")

    def _drop(self, partitions: Collection[KafkaPartition], event: str) -> None:
        self._builder.discard(partitions)
        self._owned -= set(partitions)  # first: what begins after `abandon` must not count them as its own
        self._flow.abandon(partitions)
        self._tracker.dropped(partitions)
        for partition in partitions:
            self._target.pop(partition, None)
            with suppress(KeyError):  # it was never observed
                self._metrics.lag_records.remove(partition[0], str(partition[1]))
        self._metrics.rebalances.labels(event).inc()
        self._metrics.assigned.set(len(set(self._source.assignment()) - set(partitions)))
        log.info(f"kafka.{event}", partitions=_listed(partitions))

    @property
    def owned(self) -> frozenset[KafkaPartition]:
        """The Kafka partitions this worker reads; may be asked by any thread."""
        return self._owned

    # --- what is shown -----------------------------------------------------------------------------------------

    def alive(self) -> Mapping[str, str]:
        """For the liveness probe: only a loop that hangs is a problem."""
        age = self._clock() - self._last_round
        return {"loop": f"the consumer loop has not come round for {age:.0f} s"} if age > STALLED_S else {}

    def ready(self) -> Mapping[str, str]:
        """For the readiness probe: what cannot be used at the moment."""
        problems = {f"milvus ({stage})": why for stage, why in self._flow.trouble.items()}
        problems |= {} if self._dead_letters.problem is None else {"dead letters": self._dead_letters.problem}
        return problems | self._kafka_problem()

    def _kafka_problem(self) -> dict[str, str]:
        if not self._source.assignment():
            return {"kafka": "no partition assigned yet"}
        silent_s = time.monotonic() - self._source.last_heartbeat()
        if silent_s <= self._policy.session_s:
            return {}
        if math.isinf(silent_s):
            return {"kafka": "this worker is no member of its group at the moment"}
        return {"kafka": f"no heartbeat answered for {silent_s:.0f} s (kafka.session_timeout): the broker is away"}

    def _count(self, records: Sequence[SourceRecord]) -> None:
        for (topic, partition), count in Counter(record.position[:2] for record in records).items():
            self._metrics.consumed.labels(topic, partition).inc(count)
            size = sum(record.size for record in records if record.position[:2] == (topic, partition))
            self._metrics.consumed_bytes.labels(topic).inc(size)

    def _observe_lag(self) -> None:
        self._last_lag = self._clock()
        for (topic, partition), lag in self._source.lag().items():
            self._metrics.lag_records.labels(topic, partition).set(max(0, lag.end - (lag.committed or 0)))


def _listed(partitions: Collection[KafkaPartition]) -> list[str]:
    return sorted(f"{topic}/{number}" for topic, number in partitions)
