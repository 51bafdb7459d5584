"""The pages of docs/operations name the metrics that there are, and all of them."""

import re

from prometheus_client import CollectorRegistry

from consumers.rekey import RekeyMetrics
from consumers.supervisor import SupervisorMetrics
from pipeline.telemetry.metrics import IngestMetrics, QueryMetrics
from tests.docs.blocks import DOCS

PAGE = (DOCS / "operations" / "deploy.md").read_text() + (DOCS / "operations" / "rekey.md").read_text()


def declared() -> set[str]:
    registry = CollectorRegistry()
    IngestMetrics(registry)
    QueryMetrics(registry)
    others = (RekeyMetrics().registry, SupervisorMetrics().registry)
    families = [family for source in (registry, *others) for family in source.collect()]
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


def test_the_page_explains_every_metric() -> None:
    assert sorted(name for name in declared() if name not in PAGE) == []


def test_every_metric_of_the_page_exists() -> None:
    named = set(re.findall(r"\b(?:ingest|query|rekey|milvus_stream)_[a-z_]+\b", PAGE))
    assert sorted(named - declared()) == []
