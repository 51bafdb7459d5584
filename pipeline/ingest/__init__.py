"""The ingest flow: micro-batches of Kafka records are decoded, chunked, embedded and written to Milvus.

No Kafka client and no configuration. What finishes a record, and so allows its offset, is stated in `CommitQueue`.
"""

from pipeline.ingest.circuit_breaker import RefusalLimit
from pipeline.ingest.embed import WINDOW_TOKENS
from pipeline.ingest.flow import REFUSALS, RETRY, SET_ASIDE_S, FlowPolicy, IngestFlow
from pipeline.ingest.ownership.in_flight import BatchesInFlight
from pipeline.ingest.ownership.partition_fencing import PartitionFence
from pipeline.ingest.ownership.redo_bounds import RedoBounds
from pipeline.ingest.ports import DeadLetterChannel, DeadLetterLimit, DeadLetterSink, RecordLookup
from pipeline.ingest.queues.batching import Batch, BatchBuilder, BatchPolicy
from pipeline.ingest.queues.commit_queue import CommitQueue
from pipeline.ingest.write_modes import APPEND, UPSERT, WriteMode

__all__ = [
    "APPEND",
    "REFUSALS",
    "RETRY",
    "SET_ASIDE_S",
    "UPSERT",
    "WINDOW_TOKENS",
    "Batch",
    "BatchBuilder",
    "BatchPolicy",
    "BatchesInFlight",
    "CommitQueue",
    "DeadLetterChannel",
    "DeadLetterLimit",
    "DeadLetterSink",
    "FlowPolicy",
    "IngestFlow",
    "PartitionFence",
    "RecordLookup",
    "RedoBounds",
    "RefusalLimit",
    "WriteMode",
]
