"""Several ingest workers on one machine: processes, their restarts and their end, one address for probes and metrics.

The supervisor loads no model and no client of Kafka or Milvus.
"""

from consumers.supervisor.observation import Observation, SupervisorMetrics
from consumers.supervisor.placement import count_gpus, own_settings, parse_workers, share_of, worker_count
from consumers.supervisor.restarts import TOO_MANY_REJECTED
from consumers.supervisor.summary import merge_summaries
from consumers.supervisor.supervised import Supervised
from consumers.supervisor.supervisor import Supervisor

__all__ = [
    "TOO_MANY_REJECTED",
    "Observation",
    "Supervised",
    "Supervisor",
    "SupervisorMetrics",
    "count_gpus",
    "merge_summaries",
    "own_settings",
    "parse_workers",
    "share_of",
    "worker_count",
]
