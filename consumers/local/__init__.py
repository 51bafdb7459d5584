"""Apache Kafka and Milvus on this machine, for the demo, the tests and a first try: no Docker, no installed Java."""

from consumers.local.kafka import LocalKafka
from consumers.local.milvus import LocalMilvusLite, LocalMilvusStandalone
from consumers.local.run import run_local
from consumers.local.sample_documents import SampleDocument, stdlib_documents
from consumers.local.server import LOOPBACK, Command, LocalServer

__all__ = [
    "LOOPBACK",
    "Command",
    "LocalKafka",
    "LocalMilvusLite",
    "LocalMilvusStandalone",
    "LocalServer",
    "SampleDocument",
    "run_local",
    "stdlib_documents",
]
