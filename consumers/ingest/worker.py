"""The ingest worker: one member of the consumer group, from poll to commit.

Its loop runs on the thread that owns the Kafka consumer and never waits for a batch: it polls, submits batches to the
flow, takes receipts from the commit queue and commits the offsets that they allow.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog

from consumers.ingest.observed import count_consumed, forget_lag, kafka_problem, listed, show_lag, show_unwritten
from consumers.ingest.progress import Progress, Snapshot, Summary
from consumers.ingest.settlement import Acknowledged, Settlement
from consumers.kafka import Source
from pipeline import failpoints
from pipeline.errors import Stopped, Unavailable
from pipeline.ingest import BatchBuilder, BatchPolicy, CommitQueue, DeadLetterChannel, IngestFlow, RedoBounds
from pipeline.records import KafkaPartition
from pipeline.store import FlushGovernor
from pipeline.telemetry import IngestMetrics

log = structlog.get_logger(__name__)

POLL_S = 0.2
"""Longest wait in one poll: how late the loop notices a stop or a receipt."""
COMMIT_S = 1.0
"""Seconds between commits: how old the lag is that autoscalers and dashboards see."""
LAG_S = 5.0
"""Seconds between observations of the lag."""
NO_SHARE_S = 60.0
"""With --until-caught-up: a worker that got no Kafka partition in this time is one too many, and ends. Longer than the
session of a member that was killed."""
LAST_CALL_S = 0.02
"""Between two checks whether the last call has ended; every call has a deadline."""
STALLED_S = 60.0
"""A loop without a round for this long is dead. Longer than any wait inside a round (the drain at a revocation)."""


@dataclass(frozen=True, slots=True)
class WorkerPolicy:
    """How much the worker holds and when it ends."""

    batch: BatchPolicy
    buffer_bytes: int
    """Kafka is paused while more is read and not yet written, and resumed below half of it."""
    max_unflushed_records: int = 1_000_000
    """Kafka is paused while more records are read and not yet durable: flushes may hang."""
    session_s: float = 45.0
    """Kafka counts as away when the group's coordinator has answered no heartbeat for this long."""
    shutdown_s: float = 30.0
    until_caught_up: bool = False
    max_records: int | None = None


class IngestWorker:
    """Runs until it is stopped, has caught up, or fails."""

    def __init__(
        self,
        *,
        source: Source,
        flow: IngestFlow,
        governor: FlushGovernor,
        dead_letters: DeadLetterChannel,
        receipts: CommitQueue,
        acknowledged: Acknowledged | None = None,
        metrics: IngestMetrics,
        bounds: RedoBounds,
        policy: WorkerPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`acknowledged`: None where the store does not remember positions."""
        self._source = source
        self._flow = flow
        self._governor = governor
        self._dead_letters = dead_letters
        self._settlement = Settlement(receipts, acknowledged, governor, flow.finished)
        self._metrics = metrics
        self._bounds = bounds
        self._policy = policy
        self._clock = clock
        self._builder = BatchBuilder(policy.batch)
        self._tracker = self._settlement.tracker
        self._progress = Progress.begin(clock())

    # --- the loop ----------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> Summary:
        """Read, submit and commit until `stop`; then finish within the shutdown deadline. Raises the first error."""
        progress = self._progress = Progress.begin(self._clock())
        clean = False
        self._flow.start()
        self._governor.start()
        self._dead_letters.start()
        try:
            self._source.start(self)
            clean = self._read_all(stop)
        except Stopped:
            self._check()  # a stage has ended: its own error is the cause
            raise
        finally:
            self._stop_writing()
            self._governor.close(0)
            self._dead_letters.close(0)
            self._source.close(5.0)
        return Summary(progress.consumed, dict(progress.committed), self._clock() - progress.started, clean)

    def _read_all(self, stop: threading.Event) -> bool:
        """Read until the run is finished, and finish what was read; True if nothing of it is left."""
        while True:
            while not stop.is_set() and (self._settlement.lost or not self._finished()):
                self._round()
            clean = self._drain(stop)
            if not self._settlement.lost or stop.is_set():
                return clean
            self._source.resume()
            self._progress.paused_at = None

    def _round(self) -> None:
        progress = self._progress
        now = progress.last_round = self._clock()
        self._metrics.progress.set(time.time())
        self._check()
        self._balance(now)
        show_unwritten(self._metrics, self._flow, self._buffered_bytes())
        due = self._builder.due_in(now)
        records = self._source.poll(POLL_S if due is None else min(POLL_S, due))
        if self._settlement.reread_lost(self.reread):
            records = []
        if records := progress.take(records, self._policy.max_records):
            failpoints.hit("polled")
            self._tracker.taken([record.position for record in records])
            for batch in self._builder.add(records, self._clock()):
                self._flow.submit(batch)
            count_consumed(self._metrics, records)
        for batch in self._builder.close_due(self._clock()):
            self._flow.submit(batch)
        self._settlement.settle()
        if now - progress.last_commit >= COMMIT_S:
            self._commit()
        if now - progress.last_lag >= LAG_S:
            self.observe_lag()
            self._end_redo()

    def _check(self) -> None:
        self._flow.check()
        self._governor.check()
        self._dead_letters.check()

    def _balance(self, now: float) -> None:
        """Pause all Kafka partitions or none: kafka-python loses records when only some are paused."""
        progress, limit = self._progress, self._policy.buffer_bytes
        buffered = self._buffered_bytes()
        unfinished = self._tracker.outstanding()
        has_room = unfinished <= self._policy.max_unflushed_records and self._dead_letters.has_room
        if progress.paused_at is None:
            if buffered > limit or not has_room:
                self._source.pause()
                progress.paused_at = progress.paused_until = now
                log.info("kafka.paused", buffered_bytes=buffered, unfinished_records=unfinished)
            return
        self._metrics.backpressure.inc(now - progress.paused_until)
        progress.paused_until = now
        if buffered <= limit / 2 and has_room:
            self._source.resume()
            log.info("kafka.resumed", paused_s=round(now - progress.paused_at, 1))
            progress.paused_at = None

    def _buffered_bytes(self) -> int:
        return self._flow.buffered_bytes + self._builder.size

    def _commit(self) -> None:
        self._progress.last_commit = self._clock()
        offsets = self._settlement.committable()
        if not offsets:
            return
        failpoints.hit("uncommitted")
        ok = self._source.commit(offsets)
        failpoints.hit("committed")
        self._metrics.commits.labels("ok" if ok else "error").inc()
        if ok:
            self._tracker.committed(offsets)
            self._progress.committed.update(offsets)
            self._bounds.committed(offsets)

    def _end_redo(self) -> None:
        """Learn how far an earlier owner can have read: at most to the end of the log after the assignment."""
        if self._bounds.unended:
            with suppress(Unavailable):
                self._bounds.ended(self._source.ends(self._bounds.unended))

    def _finished(self) -> bool:
        """Whether the run has read what it was started for."""
        progress = self._progress
        if self._policy.max_records is not None and progress.consumed >= self._policy.max_records:
            lag = self._source.lag()  # below `read_to` what was lost is still to be read again
            owned = progress.read_to.keys() & set(self._source.assignment())
            return all(p in lag and lag[p].position >= progress.read_to[p] for p in owned)
        if not self._policy.until_caught_up:
            return False
        assigned = self._source.assignment()
        if not assigned:
            return not progress.targets and self._clock() - progress.started > NO_SHARE_S
        lag = self._source.lag()
        missing = [p for p in assigned if p not in progress.targets]
        if missing:
            progress.targets.update(self._source.ends(missing))
        # A Kafka partition without a lag has not been read to its end: the broker did not answer.
        return all(p in lag and lag[p].position >= progress.targets[p] for p in assigned)

    # --- the end -----------------------------------------------------------------------------------------------

    def _drain(self, stop: threading.Event) -> bool:
        """Finish the records taken, make them durable, commit them. True if none is left.

        A run that ends by itself has no deadline; a stop sets the shutdown deadline. Ends early when Milvus is lost.
        """
        deadline: float | None = None
        self._source.pause()
        for batch in self._builder.close():
            self._flow.submit(batch)
        log.info("worker.draining", unfinished_records=self._tracker.outstanding())
        while self._settlement.unfinished and (deadline is None or self._clock() < deadline):
            if self._settlement.lost:
                break
            if deadline is None and stop.is_set():
                deadline = self._clock() + self._policy.shutdown_s
            self._progress.last_round = self._clock()
            self._check()
            self._source.poll(0.05)
            idle = self._flow.idle
            self._settlement.settle()  # after `idle`, so that the flush requested covers the positions of all receipts
            if idle:
                self._governor.request()
            if self._clock() - self._progress.last_commit >= COMMIT_S:
                self._commit()
        self._settlement.settle()
        self._commit()
        if self._settlement.unfinished:
            unfinished = self._tracker.outstanding()
            log.warning("worker.cut_off", unfinished_records=unfinished, what="they are read again by the next start")
        return not self._settlement.unfinished

    def _stop_writing(self) -> None:
        """End the flow and wait for the call under way: others begin to write as soon as this member leaves."""
        owned = self._source.assignment()
        self._flow.revoke(owned)
        self._flow.close(0)
        while self._flow.writing(owned):
            time.sleep(LAST_CALL_S)

    # --- the group (called by the source from inside poll) ------------------------------------------------------

    def on_assigned(self, partitions: Mapping[KafkaPartition, int]) -> None:
        """Track these Kafka partitions from the given positions; what is stored of their keys is read again."""
        self._builder.discard(partitions)
        self._tracker.assigned(partitions)
        self._bounds.assigned(partitions)
        self._flow.assign(partitions)
        self._dead_letters.assigned()
        self._metrics.rebalances.labels("assigned").inc()
        self._metrics.assigned.set(len(self._source.assignment()))
        log.info("kafka.assigned", partitions=listed(partitions))

    def drain(self, partitions: Collection[KafkaPartition]) -> bool:
        """Drop what is not submitted; True once no record of these Kafka partitions is being written."""
        self._builder.discard(partitions)
        self._settlement.settle()
        return self._flow.unwritten(partitions) == 0

    def committable(self, partitions: Collection[KafkaPartition]) -> Mapping[KafkaPartition, int]:
        """The offsets of these Kafka partitions that may be committed now."""
        self._settlement.settle()
        durable = self._settlement.committable()
        return {partition: durable[partition] for partition in partitions if partition in durable}

    def reread(self) -> None:
        """Read every assigned Kafka partition again from its committed offset, in a new epoch of each; no commit.

        What was read before and is not committed counts no more: its batches write nothing, its receipts finish
        nothing. Call it on the worker's thread, outside of `poll`.
        """
        log.warning("kafka.reread", partitions=listed(self._source.assignment()))
        self._source.reread()

    def on_revoked(self, partitions: Collection[KafkaPartition]) -> None:
        """These Kafka partitions belong to another worker after this call."""
        self._drop(partitions, "revoked")

    def writing(self, partitions: Collection[KafkaPartition]) -> bool:
        """Whether a last call that writes records of these is under way; every call has a deadline."""
        return self._flow.writing(partitions)

    def on_lost(self, partitions: Collection[KafkaPartition]) -> None:
        """These have belonged to another worker for some time: nothing of them may be committed."""
        self._drop(partitions, "lost")

    def _drop(self, partitions: Collection[KafkaPartition], event: str) -> None:
        self._builder.discard(partitions)
        self._flow.revoke(partitions)
        self._settlement.dropped(partitions)
        self._bounds.dropped(partitions)
        for partition in partitions:
            self._progress.targets.pop(partition, None)
            forget_lag(self._metrics, partition)
        self._metrics.rebalances.labels(event).inc()
        self._metrics.assigned.set(len(set(self._source.assignment()) - set(partitions)))
        log.info(f"kafka.{event}", partitions=listed(partitions))

    def on_milvus_lost(self) -> None:
        """The connection to Milvus broke, which may have lost what is not flushed; called by any thread."""
        self._settlement.milvus_lost()

    # --- for observers -------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """What the worker is doing now. Any thread may call it."""
        progress = self._progress
        return Snapshot(
            consumed=progress.consumed,
            paused=progress.paused_at is not None,
            buffered_bytes=self._buffered_bytes(),
            committed=dict(progress.committed),
        )

    def alive(self) -> Mapping[str, str]:
        """Problems for the liveness probe: only a loop that hangs."""
        age = self._clock() - self._progress.last_round
        return {"loop": f"the consumer loop has not come round for {age:.0f} s"} if age > STALLED_S else {}

    def ready(self) -> Mapping[str, str]:
        """Problems for the readiness probe: what cannot be used at the moment."""
        problems = {f"milvus ({stage})": why for stage, why in self._flow.waiting_reasons.items()}
        named = {
            "schema registry": self._flow.registry_problem,
            "flush": self._governor.problem(),
            "dead letters": self._dead_letters.problem,
        }
        problems |= {name: why for name, why in named.items() if why is not None}
        return problems | kafka_problem(self._source, self._policy.session_s)

    def observe_lag(self) -> None:
        """Set the lag metric of every assigned Kafka partition."""
        self._progress.last_lag = self._clock()
        show_lag(self._metrics, self._source.lag())
