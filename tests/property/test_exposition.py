"""The metrics of several workers merged: every sample of every worker once, with its label."""

from collections import Counter
from collections.abc import Iterator

import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from consumers.supervisor.exposition import merge

NAMES = ("ingest_records", "ingest_seconds", "ingest", "ingest_records_created_by")
LABELS = ((), ("topic",), ("topic", "partition"))
Sample = tuple[str, frozenset[tuple[str, str]], str]

values = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["}", '"', "\\", "\n", '{a="b"} 1', " 1", "# HELP", "\r", "\u2028", "\x85"]
)


@st.composite
def expositions(draw: st.DrawFn) -> str:
    """The text of one worker: some metrics of each kind, with and without labels and samples."""
    registry = CollectorRegistry()
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        kind = (prometheus_client.Counter, Gauge, Histogram)[NAMES.index(name) % 3]
        labels = LABELS[NAMES.index(name) % 3]
        metric = kind(name, draw(values), labels, registry=registry)
        rows = draw(st.lists(st.tuples(*[values] * len(labels)), unique=True, max_size=3)) if labels else [()]
        for row in rows:
            child = metric.labels(*row) if labels else metric
            amount = draw(st.floats(min_value=0, allow_nan=False))
            if isinstance(child, Histogram):
                child.observe(amount)
            elif isinstance(child, prometheus_client.Counter):
                child.inc(amount)
            else:
                child.set(amount)
    return generate_latest(registry).decode()


def samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, frozenset(sample.labels.items()), repr(sample.value)


@given(st.lists(expositions(), max_size=4))
def test_every_sample_of_every_worker_is_there_once_with_its_label(texts: list[str]) -> None:
    merged = merge({str(number): text for number, text in enumerate(texts)})
    expected = Counter(
        (name, labels | {("worker", str(number))}, value)
        for number, text in enumerate(texts)
        for name, labels, value in samples(text)
    )
    assert Counter(samples(merged)) == expected
    heads = [tuple(line.split(" ", 3)[1:3]) for line in merged.split("\n") if line.startswith("# ")]
    assert len(heads) == len(set(heads))
    assert set(heads) == {
        tuple(line.split(" ", 3)[1:3]) for text in texts for line in text.split("\n") if line.startswith("# ")
    }


@given(st.lists(expositions(), min_size=1, max_size=3))
def test_the_samples_of_a_metric_follow_each_other(texts: list[str]) -> None:
    merged = merge({str(number): text for number, text in enumerate(texts)})
    families = [family.name for family in text_string_to_metric_families(merged)]
    assert len(families) == len(set(families))
