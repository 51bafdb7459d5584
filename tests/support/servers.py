"""The servers of a run: from the environment, else Docker, else `consumers.local.run`; one of each for all workers."""

import contextlib
import fcntl
import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from consumers.local import LocalKafka, LocalMilvusLite, LocalMilvusStandalone
from pipeline.errors import MilvusStreamError

KAFKA_IMAGE = "confluentinc/cp-kafka:8.1.0"  # Apache Kafka 4.1; the class needs Confluent's start scripts
MILVUS_IMAGE = "milvusdb/milvus:v2.3.5"  # the version of the local server: a run means the same with and without Docker

StartServer = Callable[[Path], AbstractContextManager[str]]


class SharedServers:
    """The servers that all worker processes of a run use; the first that needs one starts it.

    `folder` is the same in all of them. The starter stops its servers when no other process uses them any more. Killed,
    it takes local servers with it (`consumers.local.guard`) and containers, too (the reaper of testcontainers).
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._addresses: dict[str, str] = {}
        self._users: dict[str, int] = {}
        self._started: dict[str, ExitStack] = {}

    def kafka(self) -> str:
        """`host:port` of a real Apache Kafka that creates no topic by itself and allows sessions of one second."""
        return self.address("kafka", "KAFKA_BOOTSTRAP", _docker_kafka, LocalKafka)

    def milvus(self) -> str:
        """Address of a real Milvus server, 2.3.5 or newer."""
        return self.address("milvus", "MILVUS_URI", _docker_milvus, LocalMilvusStandalone)

    def milvus_lite(self) -> str:
        """Address of a Milvus Lite server."""
        return self.address("milvus-lite", "MILVUS_LITE_URI", None, LocalMilvusLite)

    def close(self) -> None:
        """Stop using the servers; those started here end when their last user has closed."""
        for file in self._users.values():
            fcntl.flock(file, fcntl.LOCK_UN)
        try:
            for name in self._started:
                fcntl.flock(self._users[name], fcntl.LOCK_EX)
        finally:
            for stack in self._started.values():
                stack.close()
            for file in self._users.values():
                os.close(file)
            self._users, self._started, self._addresses = {}, {}, {}

    def address(self, name: str, variable: str, docker: StartServer | None, local: StartServer) -> str:
        """The address in the environment variable, of a container, or of the local server; no server fails the test."""
        if variable in os.environ:
            return os.environ[variable]
        if name not in self._addresses:
            self._addresses[name] = self._join_or_start(name, variable, docker, local)
        return self._addresses[name]

    def _join_or_start(self, name: str, variable: str, docker: StartServer | None, local: StartServer) -> str:
        address_file = self._folder / f"{name}.address"
        with _locked(self._folder / f"{name}.starting"):
            users = os.open(self._folder / f"{name}.users", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(users, fcntl.LOCK_SH)
            self._users[name] = users
            if address_file.exists():
                return address_file.read_text()
            directory = self._folder / name
            directory.mkdir(exist_ok=True)
            stack = ExitStack()
            try:
                address = (docker and _from_docker(stack, docker(directory))) or stack.enter_context(local(directory))
            except MilvusStreamError as error:
                pytest.fail(f"no server for the tests; set {variable} or repair this: {error}", pytrace=False)
            self._started[name] = stack
            address_file.write_text(address)
            return address


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _from_docker(stack: ExitStack, container: AbstractContextManager[str]) -> str | None:
    from docker.errors import DockerException  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the docker package leaves the sockets of failed calls open
        try:
            return stack.enter_context(container)
        except (RuntimeError, OSError, DockerException) as error:
            # No engine here, which is usual, or it cannot run this image: the local server will do.
            reason = f"{type(error).__name__}: {str(error)[:120]}"
        gc.collect()  # while the warnings of those sockets are ignored
    sys.stderr.write(f"no container ({reason}); starting the server on this machine\n")
    return None


@contextlib.contextmanager
def _docker_kafka(_: Path) -> Iterator[str]:
    from testcontainers.community.kafka import KafkaContainer

    container = KafkaContainer(KAFKA_IMAGE).with_kraft()
    container.with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
    container.with_env("KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS", "500")
    container.with_env("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1")
    container.with_env("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1")
    with container:
        yield container.get_bootstrap_server()


@contextlib.contextmanager
def _docker_milvus(_: Path) -> Iterator[str]:
    from testcontainers.community.milvus import MilvusContainer

    with MilvusContainer(MILVUS_IMAGE) as container:
        yield container.get_connection_url()
