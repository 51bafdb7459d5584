"""From vectors to Milvus: the client, collections, time partitions, the two writers with the ledger, and flushing.

Other packages import from here only. `connect` is loaded on first use: it imports pymilvus, which takes a second.
"""

import os
from typing import TYPE_CHECKING, Any

from pipeline.store.collection.filling import (
    HasMembers,
    check_filled,
    mode_by_data,
    open_for_filling,
    stored_stamp,
    unstamped_problems,
)
from pipeline.store.collection.indexes import (
    BadParameter,
    IndexSettings,
    check_search_defaults,
    check_server,
    index_problem,
    search_params,
)
from pipeline.store.collection.keywords import (
    KeywordSettings,
    check_keywords,
    keyword_differences,
    keyword_settings_of,
)
from pipeline.store.collection.marks import LEDGER_MARK_STATE, Mark, Marks, sweep_ledger_marks
from pipeline.store.collection.opening import (
    check_collection,
    check_made_here,
    check_model,
    holds_topic,
    no_collection,
    open_collection,
    open_ledger,
    open_marks,
)
from pipeline.store.collection.schema import (
    check_collection_name,
    ledger_name,
    marks_name,
    read_ledger_of,
    read_marks_of,
)
from pipeline.store.collection.stamp import AppendIds, CollectionStamp, compare, described_stamp, read_stamp
from pipeline.store.flushing.flusher import Flusher
from pipeline.store.flushing.governor import FlushGovernor
from pipeline.store.flushing.policy import FlushPolicy
from pipeline.store.flushing.positions import (
    PositionMarks,
    PositionStore,
    StoredPosition,
    StoredPositions,
    positions_seen,
    topic_ids_seen,
)
from pipeline.store.flushing.shared_marker import FlushMarker
from pipeline.store.milvus.api import (
    DEFAULT_PARTITION,
    CollectionInfo,
    Hit,
    IndexInfo,
    MilvusApi,
    MilvusServerApi,
    VectorSearch,
    as_of,
)
from pipeline.store.milvus.calls import Observer, unobserved
from pipeline.store.milvus.capabilities import Capabilities, capabilities_of
from pipeline.store.milvus.expressions import ids_expression, literal
from pipeline.store.milvus.version_floor import VersionWarning, version_warning
from pipeline.store.partition_names import (
    MAX_EVENT_TIME_MS,
    MIN_EVENT_TIME_MS,
    Partitioning,
    Tier,
    granularity,
    in_order,
    interval,
)
from pipeline.store.partitions import MANY_PARTITIONS, MilvusPartitions, reserved_partitions
from pipeline.store.scan import RowScan, StoredRows, all_partitions
from pipeline.store.writing.append_writer import AppendWriter, Unfinished, Writer
from pipeline.store.writing.ledger.entry_reads import KEYS_PER_QUERY, keys_of, read_entries
from pipeline.store.writing.ledger.ledger import STALENESS_S, Ledger
from pipeline.store.writing.ledger.ledger_rows import (
    ENTRY_FIELDS,
    VERSION_FIELDS,
    StoredVersion,
    entry_row,
    row_entry,
    row_version,
)
from pipeline.store.writing.ledger.tombstone_cleanup import SweepPolicy, TombstoneSweep
from pipeline.store.writing.llama_nodes import chunking_of
from pipeline.store.writing.protocol.decisions import (
    NOWHERE,
    Applied,
    Change,
    Decision,
    Earlier,
    Entry,
    Footprint,
    Key,
    WritePlan,
    compare_entry,
    decide,
    final,
)
from pipeline.store.writing.requests.upsert_requests import WritePolicy
from pipeline.store.writing.rows import (
    append_row_id,
    check_storable,
    content_hash,
    ledger_id,
    row_hash,
    row_id,
    row_ids,
)
from pipeline.store.writing.upsert_writer import UpsertWriter
from pipeline.store.writing.vector_reuse import Vectors

if TYPE_CHECKING:
    from pipeline.store.milvus.client import connect

__all__ = [
    "DEFAULT_PARTITION",
    "ENTRY_FIELDS",
    "KEYS_PER_QUERY",
    "LEDGER_MARK_STATE",
    "MANY_PARTITIONS",
    "MAX_EVENT_TIME_MS",
    "MIN_EVENT_TIME_MS",
    "NOWHERE",
    "STALENESS_S",
    "VERSION_FIELDS",
    "AppendIds",
    "AppendWriter",
    "Applied",
    "BadParameter",
    "Capabilities",
    "Change",
    "CollectionInfo",
    "CollectionStamp",
    "Decision",
    "Earlier",
    "Entry",
    "FlushGovernor",
    "FlushMarker",
    "FlushPolicy",
    "Flusher",
    "Footprint",
    "HasMembers",
    "Hit",
    "IndexInfo",
    "IndexSettings",
    "Key",
    "KeywordSettings",
    "Ledger",
    "Mark",
    "Marks",
    "MilvusApi",
    "MilvusPartitions",
    "MilvusServerApi",
    "Observer",
    "Partitioning",
    "PositionMarks",
    "PositionStore",
    "RowScan",
    "StoredPosition",
    "StoredPositions",
    "StoredRows",
    "StoredVersion",
    "SweepPolicy",
    "Tier",
    "TombstoneSweep",
    "Unfinished",
    "UpsertWriter",
    "VectorSearch",
    "Vectors",
    "VersionWarning",
    "WritePlan",
    "WritePolicy",
    "Writer",
    "all_partitions",
    "append_row_id",
    "as_of",
    "capabilities_of",
    "check_collection",
    "check_collection_name",
    "check_filled",
    "check_keywords",
    "check_made_here",
    "check_model",
    "check_search_defaults",
    "check_server",
    "check_storable",
    "chunking_of",
    "compare",
    "compare_entry",
    "connect",
    "content_hash",
    "decide",
    "described_stamp",
    "entry_row",
    "final",
    "granularity",
    "holds_topic",
    "ids_expression",
    "in_order",
    "index_problem",
    "interval",
    "keys_of",
    "keyword_differences",
    "keyword_settings_of",
    "ledger_id",
    "ledger_name",
    "literal",
    "marks_name",
    "mode_by_data",
    "no_collection",
    "open_collection",
    "open_for_filling",
    "open_ledger",
    "open_marks",
    "positions_seen",
    "read_entries",
    "read_ledger_of",
    "read_marks_of",
    "read_stamp",
    "reserved_partitions",
    "row_entry",
    "row_hash",
    "row_id",
    "row_ids",
    "row_version",
    "search_params",
    "stored_stamp",
    "sweep_ledger_marks",
    "topic_ids_seen",
    "unobserved",
    "unstamped_problems",
    "version_warning",
]


def __getattr__(name: str) -> Any:
    if name == "connect":
        # Else pymilvus reads a file `.env` of any folder above the one it is installed in into the environment.
        os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")
        from pipeline.store.milvus.client import connect  # noqa: PLC0415 - see above

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
