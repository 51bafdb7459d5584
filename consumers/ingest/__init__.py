"""The ingest worker: reads a consumer group's records, runs the ingest flow and commits offsets."""

from consumers.ingest.progress import Snapshot, Summary
from consumers.ingest.settlement import Acknowledged
from consumers.ingest.worker import IngestWorker, WorkerPolicy

__all__ = ["Acknowledged", "IngestWorker", "Snapshot", "Summary", "WorkerPolicy"]
