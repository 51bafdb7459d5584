"""A real Milvus that loses what it had not flushed, while the worker lives on.

kill -9 alone loses nothing on a Milvus, whose log is on its disk. So the server's data folder is put back to a copy, as
a file system is after a loss of power.
"""

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


class Lite(Killable):
    """A Milvus Lite: its folder is its data."""

    @property
    def _data(self) -> Path:
        return self.server.directory


@pytest.fixture(params=[LocalMilvusStandalone, LocalMilvusLite])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Killable]:
    server: LocalServer = request.param(tmp_path / "milvus", free_ports(1)[0])
    server.start()
    try:
        yield Lite(server) if isinstance(server, LocalMilvusLite) else Killable(server)
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
def test_what_a_server_lost_is_written_again_by_the_worker_that_lived_on(machine: Killable, tmp_path: Path) -> None:
    uri = machine.server.address
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
            machine.snapshot(tmp_path / "disk")
            for number in range(20, 40):
                broker.produce(TOPIC, document(f"d{number}"))
            eventually(lambda: rig.flow.idle and holds(uri, 40), within=RESTART_S)
            machine.kill()
            machine.restore(tmp_path / "disk")
            machine.launch()
            connection.held = False
            eventually(lambda: rig.committed().get(0) == 40, within=RESTART_S)
            assert holds(uri, 40)
