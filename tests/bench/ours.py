"""The ingest worker, built as `milvus-stream ingest --until-caught-up` builds it."""

import math
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from consumers.config import Settings
from consumers.wiring.connections import milvus
from consumers.wiring.documents import embedder
from consumers.wiring.ingest import ingest_metrics, ingest_worker
from consumers.wiring.start_checks import check_ingest
from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.telemetry import IngestMetrics, configure_logging
from pipeline.telemetry.process_memory import frozen
from tests.bench.contender import Go, arguments, contend
from tests.bench.corpus import read_documents
from tests.bench.stage_clock import StageClock


def main() -> None:
    """Load the model, then drain a topic for each job."""
    given = arguments()
    configure_logging("warning", "json")
    base = Settings.model_validate(given["settings"])
    metrics = ingest_metrics()
    with ExitStack() as stack:
        api = stack.enter_context(milvus(base, metrics.observe_sink))
        model = stack.enter_context(embedder(base))
        texts = [document.text for document in read_documents(given["documents"])[:64]]
        chunks = Chunker(model.tokenizer, ChunkingPolicy()).chunk(texts)
        model.embed([chunk for document in chunks for chunk in document])

        def prepare(job: dict[str, Any]) -> Go:
            settings = Settings.model_validate(_with_job(given["settings"], job))
            mine = ingest_metrics()
            api.fence(lambda: math.inf)  # the lease of the worker before, which has ended
            check_ingest(settings, api, adopt=True)
            # Redoes and moves are drained by further groups, each in the place of the one before.
            worker = ingest_worker(
                settings, api, model, until_caught_up=True, max_records=None, metrics=mine, adopt=True
            )

            def go() -> Mapping[str, Any]:
                upserting = _upsert_s(metrics)
                with StageClock(lambda: _settled(mine), job["records"]) as clock, frozen():
                    summary = worker.run(threading.Event())
                stored, shared = _settled(mine), job.get("shared", False)
                if not summary.clean or (sum(summary.committed.values()) != job["end"] and not shared):
                    raise RuntimeError(f"{job['records']} records are there, this was done: {summary}")
                if stored != job["records"] and not shared:
                    raise RuntimeError(f"{job['records']} records are there, {stored} are stored")
                return {
                    "records": summary.consumed,
                    "stored": stored,
                    "dtype": model.dtype,
                    "upsert_s": _upsert_s(metrics) - upserting,
                    **clock.figures(),
                }

            return go

        contend(prepare)


def _with_job(settings: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    kafka = {
        **settings["kafka"],
        "topics": [job["topic"]],
        "group_id": job["group"],
        "dead_letter_topic": f"{job['topic']}.dlq",
    }
    return {**settings, "kafka": kafka, "milvus": {**settings["milvus"], "collection": job["collection"]}}


def _settled(metrics: IngestMetrics) -> int:
    """Records stored, or found to be stored already."""
    value = metrics.registry.get_sample_value
    return sum(int(value("ingest_records_total", {"outcome": each}) or 0) for each in ("written", "unchanged"))


def _upsert_s(metrics: IngestMetrics) -> float:
    """Seconds that upserts to Milvus took so far."""
    name, labels = "ingest_sink_operation_duration_seconds_sum", {"operation": "upsert", "outcome": "ok"}
    return metrics.registry.get_sample_value(name, labels) or 0.0


if __name__ == "__main__":
    main()
