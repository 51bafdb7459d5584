"""A real Milvus that loses what it had not flushed, while the worker lives on.

kill -9 alone loses nothing on a Milvus, whose log is on its disk. So the server's data folder is put back to a copy, as
a file system is after a loss of power.
"""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from consumers.local import LocalMilvusLite, LocalMilvusStandalone
from consumers.local.server import LocalServer, free_ports
from pipeline.errors import Unavailable
from pipeline.store import MilvusServerApi, connect
from tests.chaos.servers import Killable
from tests.support.fakes.kafka import FakeBroker
from tests.support.rigs.worker import COLLECTION, DEAD_LETTERS, TOPIC, Rig, document, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.servers

RESTART_S = 150
"""Milvus 2.3.5 waits up to a minute for the sessions of the server that died."""


class Held:
    """A connection on which flushes may be held up."""

    def __init__(self, api: MilvusServerApi) -> None:
        self._api = api
        self.held = False

    def flush(self, collection: str) -> None:
        if self.held:
            raise Unavailable("held")
        self._api.flush(collection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)


class Machine(Killable):
    """A Milvus and its disk."""

    def __init__(self, server: LocalServer) -> None:
        super().__init__(server)
        self.address = server.start()
        self._disk, self._copy = server.directory, server.directory.with_name("copy")

    def keep(self) -> None:
        """Copy the disk of a server that does not run."""
        shutil.copytree(self._disk, self._copy, symlinks=True)

    def put_back(self) -> None:
        """Put the disk back to what it was."""
        shutil.rmtree(self._disk)
        shutil.copytree(self._copy, self._disk, symlinks=True)


@pytest.fixture(params=[LocalMilvusStandalone, LocalMilvusLite])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    server = request.param(tmp_path / "milvus", free_ports(1)[0])
    try:
        yield Machine(server)
    finally:
        server.stop()


def stored(uri: str) -> dict[str, int]:
    """Rows of each document, every copy counted; raises Unavailable."""
    with closing(connect(uri)) as api:
        rows = api.query(COLLECTION, "chunk >= 0", ["doc_id"], strong=True)
        assert api.count(COLLECTION) == len(rows)
    return {row["doc_id"]: sum(other["doc_id"] == row["doc_id"] for other in rows) for row in rows}


def holds(uri: str, documents: int) -> bool:
    try:
        return stored(uri) == {f"d{number}": 1 for number in range(documents)}
    except Unavailable:
        return False


@pytest.mark.timeout(600)
def test_what_a_server_lost_is_written_again_by_the_worker_that_lived_on(machine: Machine) -> None:
    uri = machine.address
    broker = FakeBroker()
    broker.create_topic(TOPIC)
    broker.create_topic(DEAD_LETTERS)
    with closing(connect(uri, timeout_s=5.0)) as api:
        connection: Any = Held(api)
        rig = Rig(broker, connection, durability="flush", session_s=30.0)
        for number in range(20):
            broker.produce(TOPIC, document(f"d{number}"))
        with running(rig):
            eventually(lambda: rig.committed().get(0) == 20, within=60)
            connection.held = True
            machine.kill()
            machine.keep()
            machine.launch()
            for number in range(20, 40):
                broker.produce(TOPIC, document(f"d{number}"))
            eventually(lambda: rig.flow.idle and holds(uri, 40), within=RESTART_S)
            machine.kill()
            machine.put_back()
            machine.launch()
            connection.held = False
            eventually(lambda: rig.committed().get(0) == 40, within=RESTART_S)
            assert holds(uri, 40)
