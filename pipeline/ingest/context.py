"""What the stages of one ingest flow share: the queues between them, and the objects all of them use."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.ingest.circuit_breaker import CircuitBreaker
from pipeline.ingest.ownership.partition_fencing import PartitionFence
from pipeline.ingest.ownership.redo_bounds import RedoBounds
from pipeline.ingest.queues.bounded_queue import BoundedQueue
from pipeline.ingest.rejections import Rejections
from pipeline.ingest.stages import Barrier, Embedded, Planned, Submitted
from pipeline.telemetry import IngestMetrics


@dataclass(frozen=True, slots=True)
class FlowQueues:
    """The queues in the order of the data. The capacities bound how many batches wait with chunks or vectors."""

    incoming: BoundedQueue[Submitted | Barrier] = field(default_factory=BoundedQueue)
    """Unbounded: `submit` never blocks, the caller bounds the bytes in flight."""
    to_embed: BoundedQueue[Planned | Barrier] = field(default_factory=lambda: BoundedQueue(4))
    to_write: BoundedQueue[Embedded | Barrier] = field(default_factory=lambda: BoundedQueue(2))
    passed: BoundedQueue[Barrier] = field(default_factory=BoundedQueue)
    """Barriers that return from the last stage to the first."""

    def abort(self) -> None:
        """Drop what is inside and wake every waiting stage with Stopped."""
        self.incoming.abort()
        self.to_embed.abort()
        self.to_write.abort()
        self.passed.abort()


@dataclass(frozen=True, slots=True)
class FlowContext:
    """Shared by all stages of one flow."""

    queues: FlowQueues
    fence: PartitionFence
    breaker: CircuitBreaker
    rejections: Rejections
    bounds: RedoBounds
    metrics: IngestMetrics
    guard: Callable[[Callable[[], None]], None]
    """Runs a thread's work; the first error of any thread ends the flow."""
    wall_clock: Callable[[], float]
    """Epoch seconds."""
