"""What metrics, readiness probe and log show of reading Kafka."""

import math
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from consumers.kafka import Lag, Source, suspend_clock
from pipeline.ingest import IngestFlow
from pipeline.records import KafkaPartition, SourceRecord
from pipeline.telemetry import IngestMetrics

LAG_AGE_S = 15.0
"""A lag whose end offset is older is not shown: a broker that does not answer would leave it at its last value."""


def count_consumed(metrics: IngestMetrics, records: Sequence[SourceRecord]) -> None:
    """Count the records taken from Kafka, and their bytes."""
    for (topic, partition), count in Counter(record.position[:2] for record in records).items():
        metrics.consumed.labels(topic, partition).inc(count)
        size = sum(record.size for record in records if record.position[:2] == (topic, partition))
        metrics.consumed_bytes.labels(topic).inc(size)


def show_unwritten(metrics: IngestMetrics, flow: IngestFlow, buffered_bytes: int) -> None:
    """Set what is read and not written, how old it is, and what is set aside, also while nothing moves."""
    metrics.buffered_bytes.set(buffered_bytes)
    oldest_ms = flow.oldest_ms
    metrics.oldest_unwritten.set(0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000))
    set_aside = flow.set_aside
    metrics.set_aside.set(set_aside.records)
    metrics.set_aside_age.set(set_aside.oldest_s)


def show_lag(metrics: IngestMetrics, lags: Mapping[KafkaPartition, Lag]) -> None:
    """Set the lag of each Kafka partition; remove it where the end is not known any more."""
    for name, lag in lags.items():
        if time.monotonic() - lag.measured_at > LAG_AGE_S:
            forget_lag(metrics, name)
        else:
            metrics.lag_records.labels(*name).set(max(0, lag.end - (lag.committed or 0)))


def forget_lag(metrics: IngestMetrics, partition: KafkaPartition) -> None:
    """Remove the lag of a Kafka partition."""
    with suppress(KeyError):  # it was never observed
        metrics.lag_records.remove(partition[0], str(partition[1]))


def kafka_problem(source: Source, session_s: float) -> dict[str, str]:
    """Why Kafka cannot be used at the moment, for the readiness probe; empty while it can."""
    silent_s = suspend_clock() - source.last_heartbeat()
    if silent_s <= session_s:
        return {}
    if math.isinf(silent_s):
        return {"kafka": "this worker is no member of its group at the moment"}
    return {"kafka": f"no heartbeat answered for {silent_s:.0f} s (kafka.session_timeout): the broker is away"}


def listed(partitions: Collection[KafkaPartition]) -> list[str]:
    """Kafka partitions as the log names them."""
    return sorted(f"{topic}/{number}" for topic, number in partitions)
