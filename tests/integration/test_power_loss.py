"""A Milvus whose machine loses what was not flushed: its data folder is put back to an earlier moment."""

import shutil
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pipeline.errors import Unavailable
from pipeline.records import Delete, Put
from pipeline.store.milvus.api import MilvusApi
from pipeline.store.milvus.client import connect
from pipeline.store.writing.ledger.ledger_rows import entry_row
from tests.chaos.servers import Killable, make_milvus
from tests.support.documents import delete, put
from tests.support.stores import Store, make_store, write
from tests.support.waiting import eventually

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

TODAY, TOMORROW = "d20261122", "d20261123"
COUNT = 200


def first() -> list[Put | Delete]:
    """What is flushed before the loss: four kinds of documents."""
    return [put(f"{kind}{n}", "a b c", 10 * n + at) for n in range(COUNT) for at, kind in enumerate(KINDS)]


def second() -> list[Put | Delete]:
    """What is acknowledged and lost: changes, moves, shorter texts and deletes."""
    operations: list[Put | Delete] = []
    for n in range(COUNT):
        at = 10_000 + 10 * n
        operations += [
            put(f"changed{n}", "d e f", at),
            put(f"moved{n}", "g h", at + 1, day=1),
            put(f"shrunk{n}", "i", at + 2),
            delete(f"deleted{n}", at + 3),
            put(f"new{n}", "j k", at + 4),
        ]
    return operations


KINDS = ("changed", "moved", "shrunk", "deleted")


def expected() -> dict[str, dict[tuple[str, int], str]]:
    today = {(f"changed{n}", at): word for n in range(COUNT) for at, word in enumerate("def")}
    today |= {(f"shrunk{n}", 0): "i" for n in range(COUNT)}
    today |= {(f"new{n}", at): word for n in range(COUNT) for at, word in enumerate("jk")}
    return {TODAY: today, TOMORROW: {(f"moved{n}", at): word for n in range(COUNT) for at, word in enumerate("gh")}}


def recovered(api: MilvusApi) -> Store:
    """The collections of a server that was killed; they can be read about a minute after it answers."""
    store = Store(api, "docs")

    def readable() -> bool:
        with suppress(Unavailable):
            return store.count() >= 0 and len(store.ledger_entries()) > 0
        return False

    eventually(readable, within=180)
    return store


def check(store: Store) -> None:
    rows = expected()
    assert store.rows() == rows
    assert store.count() == sum(map(len, rows.values()))
    assert not any(entry.pending for entry in store.ledger_entries())


@pytest.mark.parametrize("ledger_survives", [False, True], ids=["all is lost", "the ledger survives"])
def test_a_redo_after_a_loss_is_exact(tmp_path: Path, ledger_survives: bool) -> None:
    folder, copy = tmp_path / "milvus", tmp_path / "on disk"
    folder.mkdir()
    local = make_milvus(folder)
    server = Killable(local)
    uri = local.start()
    try:
        with closing(connect(uri)) as api:
            store = make_store(api, "docs")
            write(store.upsert_writer(), first())
            api.flush("docs")
            api.flush("docs__ledger")
        server.kill()
        shutil.copytree(folder / "data", copy)
        server.launch()
        server.await_ready()
        with closing(connect(uri)) as api:
            store = recovered(api)
            write(store.upsert_writer(), second())
            check(store)
            entries = store.ledger_entries()
        server.kill()
        shutil.rmtree(folder / "data")
        shutil.copytree(copy, folder / "data")
        server.launch()
        server.await_ready()
        with closing(connect(uri)) as api:
            store = recovered(api)
            assert store.rows() == {
                TODAY: {(f"{kind}{n}", at): "abc"[at] for n in range(COUNT) for kind in KINDS for at in range(3)}
            }
            if ledger_survives:
                for start in range(0, len(entries), 500):
                    api.upsert("docs__ledger", None, [entry_row(entry) for entry in entries[start : start + 500]])
            redo = store.upsert_writer()
            for start in range(0, len(second()), 300):
                write(redo, second()[start : start + 300])
            check(store)
    finally:
        local.stop()
