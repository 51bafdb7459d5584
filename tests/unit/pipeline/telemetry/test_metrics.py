"""The outcomes of records: counted in a value that the metric follows."""

from prometheus_client import CollectorRegistry

from pipeline.telemetry.metrics import OUTCOMES, IngestMetrics


def test_the_metric_follows_the_counts() -> None:
    metrics = IngestMetrics(CollectorRegistry())
    totals: list[int] = []
    metrics.outcomes.on_change = totals.append
    for number, outcome in enumerate(OUTCOMES, 1):
        metrics.outcomes.add(outcome, number)
    assert metrics.outcomes.counts() == {outcome: number for number, outcome in enumerate(OUTCOMES, 1)}
    assert totals == [1, 3, 6, 10, 15, 21]
    samples = {
        outcome: metrics.registry.get_sample_value("ingest_records_total", {"outcome": outcome}) for outcome in OUTCOMES
    }
    assert samples == metrics.outcomes.counts()


def test_every_outcome_is_exported_from_the_start() -> None:
    registry = IngestMetrics(CollectorRegistry()).registry
    assert [registry.get_sample_value("ingest_records_total", {"outcome": outcome}) for outcome in OUTCOMES] == [0] * 6
