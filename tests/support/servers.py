"""Where the tests get their servers: the environment, else Docker, else `consumers.local`."""

import contextlib
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from consumers.local import LocalKafka, LocalMilvusLite, LocalMilvusStandalone
from pipeline.errors import MilvusStreamError

KAFKA_IMAGE = "confluentinc/cp-kafka:8.1.0"  # Apache Kafka 4.1; the class needs Confluent's start scripts
MILVUS_IMAGE = "milvusdb/milvus:v2.3.5"  # the version of the local server: a run means the same with and without Docker


@contextlib.contextmanager
def kafka(directory: Path) -> Iterator[str]:
    """`host:port` of a real Apache Kafka that creates no topic by itself and allows sessions of one second."""
    with _first_of("KAFKA_BOOTSTRAP", _docker_kafka, LocalKafka(directory)) as address:
        yield address


@contextlib.contextmanager
def milvus(directory: Path) -> Iterator[str]:
    """Address of a real Milvus server, 2.3.5 or newer."""
    with _first_of("MILVUS_URI", _docker_milvus, LocalMilvusStandalone(directory)) as address:
        yield address


@contextlib.contextmanager
def milvus_lite(directory: Path) -> Iterator[str]:
    """Address of a Milvus Lite server."""
    with _first_of("MILVUS_LITE_URI", None, LocalMilvusLite(directory)) as address:
        yield address


@contextlib.contextmanager
def _first_of(
    variable: str, docker: Callable[[], AbstractContextManager[str]] | None, local: AbstractContextManager[str]
) -> Iterator[str]:
    """The address in the environment variable, of a container, or of the local server; no server fails the test."""
    if variable in os.environ:
        yield os.environ[variable]
        return
    with contextlib.ExitStack() as stack:
        address = _from_docker(stack, docker) if docker is not None else None
        if address is None:
            try:
                address = stack.enter_context(local)
            except MilvusStreamError as error:
                pytest.fail(f"no server for the tests; set {variable} or repair this: {error}", pytrace=False)
        yield address


def _from_docker(stack: contextlib.ExitStack, docker: Callable[[], AbstractContextManager[str]]) -> str | None:
    from docker.errors import DockerException  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the docker package leaves the sockets of failed calls open
        try:
            return stack.enter_context(docker())
        except (RuntimeError, OSError, DockerException) as error:
            # No engine here, which is usual, or it cannot run this image: the local server will do.
            reason = f"{type(error).__name__}: {str(error)[:120]}"
        gc.collect()  # while the warnings of those sockets are ignored
    sys.stderr.write(f"no container ({reason}); starting the server on this machine\n")
    return None


@contextlib.contextmanager
def _docker_kafka() -> Iterator[str]:
    from testcontainers.community.kafka import KafkaContainer

    container = KafkaContainer(KAFKA_IMAGE).with_kraft()
    container.with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
    container.with_env("KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS", "500")
    container.with_env("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1")
    container.with_env("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1")
    with container:
        yield container.get_bootstrap_server()


@contextlib.contextmanager
def _docker_milvus() -> Iterator[str]:
    from testcontainers.community.milvus import MilvusContainer

    with MilvusContainer(MILVUS_IMAGE) as container:
        yield container.get_connection_url()
