"""From vectors to Milvus: schema, time partitions, ledger, writer, flush governor, client.

`connect` is found on first use: it imports pymilvus, which takes a second.
"""

import os
from typing import TYPE_CHECKING, Any

from pipeline.store.collection.indexes import IndexSettings, search_params
from pipeline.store.collection.opening import check_model, holds_topic, open_collection, open_ledger
from pipeline.store.flushing.governor import FlushGovernor
from pipeline.store.flushing.policy import FlushPolicy
from pipeline.store.milvus.api import CollectionInfo, Hit, MilvusApi, MilvusServerApi
from pipeline.store.milvus.expressions import literal
from pipeline.store.partitions import DEFAULT_PARTITION, MilvusPartitions, interval
from pipeline.store.writing.append_writer import AppendWriter, Writer
from pipeline.store.writing.protocol import Applied, WritePlan
from pipeline.store.writing.tombstone_cleanup import SweepPolicy, TombstoneSweep
from pipeline.store.writing.upsert_requests import WritePolicy
from pipeline.store.writing.upsert_writer import UpsertWriter
from pipeline.store.writing.vector_reuse import Vectors

if TYPE_CHECKING:
    from pipeline.store.milvus.client import connect

__all__ = [
    "DEFAULT_PARTITION",
    "AppendWriter",
    "Applied",
    "CollectionInfo",
    "FlushGovernor",
    "FlushPolicy",
    "Hit",
    "IndexSettings",
    "MilvusApi",
    "MilvusPartitions",
    "MilvusServerApi",
    "SweepPolicy",
    "TombstoneSweep",
    "UpsertWriter",
    "Vectors",
    "WritePlan",
    "WritePolicy",
    "Writer",
    "check_model",
    "connect",
    "holds_topic",
    "interval",
    "literal",
    "open_collection",
    "open_ledger",
    "search_params",
]


def __getattr__(name: str) -> Any:
    if name == "connect":
        # Else pymilvus reads a file `.env` of any folder above the one it is installed in into the environment.
        os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")
        from pipeline.store.milvus.client import connect  # noqa: PLC0415 - see above

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
