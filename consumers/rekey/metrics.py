"""The metrics of a rekey stage."""

from prometheus_client import CollectorRegistry, Counter, Gauge

OUTCOMES = ("keyed", "unchanged", "untouched")
"""How a record was forwarded: with its document's id as its new key, with a key that was the id already, or with the
key that it had, because it names no document."""


class RekeyMetrics:
    """The metrics of one rekey stage, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.records = Counter(
            "rekey_records_total", "Records forwarded, by what became of the key.", ("outcome",), registry=self.registry
        )
        self.transactions = Counter(
            "rekey_transactions_total", "Transactions, by how they ended.", ("status",), registry=self.registry
        )
        self.lag = Gauge(
            "rekey_consumer_lag_records",
            "End offset minus committed offset; absent while Kafka does not answer.",
            ("topic", "partition"),
            registry=self.registry,
        )
        self.progress = Gauge(
            "rekey_last_progress_timestamp_seconds", "Start of the last round (epoch seconds).", registry=self.registry
        )
        for outcome in OUTCOMES:
            self.records.labels(outcome)
        for status in ("committed", "aborted"):
            self.transactions.labels(status)
