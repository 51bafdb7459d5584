"""From vectors to Milvus: schema, time partitions, ledger, writer, flush governor, client.

`connect` is found on first use: it imports pymilvus, which takes a second.
"""

import os
from typing import TYPE_CHECKING, Any

from pipeline.store.api import MilvusApi, MilvusServerApi
from pipeline.store.collection import check_model, holds_topic, open_collection, open_ledger
from pipeline.store.flush import FlushGovernor
from pipeline.store.flush_policy import FlushPolicy
from pipeline.store.indexes import IndexSettings
from pipeline.store.partitions import MilvusPartitions
from pipeline.store.plan import Applied, Plan
from pipeline.store.requests import WritePolicy
from pipeline.store.reuse import Vectors
from pipeline.store.tombstones import SweepPolicy, TombstoneSweep
from pipeline.store.upsert_writer import UpsertWriter
from pipeline.store.writer import AppendWriter, Writer

if TYPE_CHECKING:
    from pipeline.store.client import connect

__all__ = [
    "AppendWriter",
    "Applied",
    "FlushGovernor",
    "FlushPolicy",
    "IndexSettings",
    "MilvusApi",
    "MilvusPartitions",
    "MilvusServerApi",
    "Plan",
    "SweepPolicy",
    "TombstoneSweep",
    "UpsertWriter",
    "Vectors",
    "WritePolicy",
    "Writer",
    "check_model",
    "connect",
    "holds_topic",
    "open_collection",
    "open_ledger",
]


def __getattr__(name: str) -> Any:
    if name == "connect":
        # Else pymilvus reads a file `.env` of any folder above the one it is installed in into the environment.
        os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")
        from pipeline.store.client import connect  # noqa: PLC0415 - see above

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
