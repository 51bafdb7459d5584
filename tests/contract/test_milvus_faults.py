"""A Milvus that hangs, is not there, dies and comes back: Milvus Lite in a process of the test's own."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.errors import OutcomeUnknown, Unavailable
from pipeline.store.collection.indexes import IndexSettings
from pipeline.store.collection.schema import documents_spec
from pipeline.store.collection.stamp import read_stamp
from pipeline.store.milvus.api import VectorSearch
from pipeline.store.milvus.client import MilvusServer, connect
from pipeline.store.milvus.error_mapping import RetryPolicy
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

STAMP = {"name": "a/b", "digest": "d"}
IMPATIENT = RetryPolicy(total_s=1.0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LiteProcess:
    """One `milvus-lite server`, which can be stopped, continued, killed and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        arguments = ["server", "--host", "127.0.0.1", "--port", str(self._port), "--data-dir", str(self._directory)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "milvus_lite", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._answers, within=30, what="Milvus Lite")

    def _answers(self) -> bool:
        try:
            connect(self.uri, timeout_s=2.0).close()
        except Unavailable:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)
        if number == signal.SIGSTOP:  # its threads may still be in the middle of a step
            process = psutil.Process(self._process.pid)
            eventually(lambda: process.status() == psutil.STATUS_STOPPED, what="the stop of Milvus Lite")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[LiteProcess]:
    process = LiteProcess(tmp_path / "data")
    process.start()
    yield process
    process.kill()


@pytest.fixture
def api(lite: LiteProcess) -> Iterator[MilvusServer]:
    opened = connect(lite.uri, timeout_s=1.0, retry=IMPATIENT)
    opened.create_collection(documents_spec("c", dimension=2, index=IndexSettings("FLAT"), stamp=STAMP, bm25=False))
    yield opened
    opened.close()


def put(api: MilvusServer, identifier: str, partition: str | None = None) -> None:
    row = {
        "id": identifier,
        "doc_id": "doc",
        "chunk": 0,
        "text": "text",
        "vector": np.ones(2, np.float32),
        "event_time": 0,
        "kafka_topic": "t",
        "kafka_partition": 0,
        "kafka_offset": 0,
    }
    api.upsert("c", partition, [row])


def seconds_of(call: Callable[[], object], error: type[Exception]) -> float:
    began = time.monotonic()
    with pytest.raises(error):
        call()
    return time.monotonic() - began


def test_nothing_listens() -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    assert seconds_of(lambda: connect(uri), Unavailable) < 2.0


def test_something_else_listens() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert seconds_of(lambda: connect(uri, timeout_s=1.0), Unavailable) < 4.0


def test_a_hung_server_ends_calls_in_time_and_serves_again(lite: LiteProcess, api: MilvusServer) -> None:
    put(api, "aa")
    lite.signal(signal.SIGSTOP)
    try:
        assert seconds_of(lambda: put(api, "bb"), OutcomeUnknown) < api.longest_write_s
        assert seconds_of(lambda: api.query("c", "chunk >= 0", ["id"]), Unavailable) < api.longest_write_s
        search = seconds_of(
            lambda: api.search("c", VectorSearch(np.ones((1, 2), np.float32), 1, timeout_s=0.5)), Unavailable
        )
        assert search < 1.5
    finally:
        lite.signal(signal.SIGCONT)
    eventually(lambda: api.count("c") > 0, within=10)
    put(api, "bb")
    assert api.count("c") == 2


def test_the_same_connection_outlives_the_server(lite: LiteProcess, api: MilvusServer) -> None:
    put(api, "aa")
    lite.kill()
    assert seconds_of(lambda: put(api, "bb"), Unavailable) < api.longest_write_s
    lite.start()

    def written() -> bool:
        try:
            put(api, "bb")
        except Unavailable:
            return False
        return True

    eventually(written, within=15)
    assert sorted(row["id"] for row in api.query("c", "chunk >= 0", ["id"], strong=True)) == ["aa", "bb"]
    info = api.describe("c")
    assert info is not None
    assert read_stamp(info) == STAMP


def test_a_short_outage_is_not_seen(lite: LiteProcess) -> None:
    patient = connect(lite.uri, timeout_s=5.0, retry=RetryPolicy(total_s=30.0))
    patient.create_collection(documents_spec("c", dimension=2, index=IndexSettings("FLAT"), stamp=STAMP, bm25=False))
    lite.kill()
    back = threading.Thread(target=lite.start)  # it comes back while the call below tries again
    back.start()
    put(patient, "aa")
    back.join()
    assert patient.count("c") == 1
    patient.close()


def test_a_restarted_server_is_searched_whole_by_a_new_connection(lite: LiteProcess, api: MilvusServer) -> None:
    api.create_partition("c", "d20261122")
    put(api, "aa", "d20261122")
    lite.kill()
    lite.start()
    with closing(connect(lite.uri)) as later:
        assert later.loaded_partitions("c") == ["d20261122"]
        found = later.search("c", VectorSearch(np.ones((1, 2), np.float32), 5, partitions=later.loaded_partitions("c")))
    assert [[hit.id for hit in hits] for hits in found] == [["aa"]]
