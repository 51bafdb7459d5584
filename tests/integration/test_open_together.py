"""Several workers started at the same moment on a server that has nothing of theirs yet."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from pipeline.errors import MilvusStreamError
from pipeline.store import (
    CollectionStamp,
    IndexSettings,
    MilvusPartitions,
    connect,
    open_collection,
    open_for_filling,
    open_ledger,
    open_marks,
    stored_stamp,
)
from pipeline.store.milvus.api import MilvusServerApi

pytestmark = pytest.mark.servers

WORKERS = 4
STAMP = {"name": "model", "fingerprint": "f"}
OWN = CollectionStamp(STAMP | {"dimension": 8}, {"mode": "upsert"}, {"group": frozenset({"topic"})})
INDEX = IndexSettings("HNSW", "COSINE", {})
NAMES = ("d20261121", "d20261122", "d20261123")


def open_all(api: MilvusServerApi, name: str, start: threading.Barrier) -> None:
    """What a worker does at its start and with its first batch, each step at the same time as the others."""
    try:
        start.wait(60)
        open_collection(api, name, STAMP, 8, INDEX, create=True)
        start.wait(60)
        open_ledger(api, name)
        start.wait(60)
        open_marks(api, name)
        start.wait(60)
        MilvusPartitions(api, name).ensure(dict.fromkeys(NAMES, True))
    except MilvusStreamError:
        start.abort()
        raise


# What goes wrong on Lite goes wrong now and then, and a round there takes a fraction of a second.
@pytest.mark.parametrize(("server", "rounds"), [("milvus_uri", 1), ("milvus_lite_uri", 4)])
def test_workers_that_start_together_share_one_loaded_collection(
    server: str, rounds: int, request: pytest.FixtureRequest, unique_name: Callable[..., str]
) -> None:
    uri = request.getfixturevalue(server)
    with ExitStack() as stack:
        apis = [stack.enter_context(closing(connect(uri))) for _ in range(WORKERS)]
        for _ in range(rounds):
            name = unique_name("together").replace("-", "_")
            names = [name, f"{name}__ledger", f"{name}__marks"]
            for each in names:
                stack.callback(apis[0].drop_collection, each)
            start = threading.Barrier(WORKERS)
            with ThreadPoolExecutor(WORKERS) as pool:
                ended = [pool.submit(open_all, api, name, start) for api in apis]
            assert [each.exception() for each in ended] == [None] * WORKERS
            assert [each for each in apis[0].collections() if each.startswith(name)] == names
            for api in apis:
                assert api.loaded_partitions(name) == api.partitions(name) == sorted(NAMES)
                assert [api.count(each) for each in names] == [0, 0, 0]


@pytest.mark.parametrize("former", [False, True], ids=["new", "of a former version"])
@pytest.mark.parametrize("server", ["milvus_uri", "milvus_lite_uri"])
def test_workers_that_start_together_agree_on_the_stamp(
    server: str, former: bool, request: pytest.FixtureRequest, unique_name: Callable[..., str]
) -> None:
    uri = request.getfixturevalue(server)
    with ExitStack() as stack:
        apis = [stack.enter_context(closing(connect(uri))) for _ in range(WORKERS)]
        name = unique_name("stamp").replace("-", "_")
        for each in (name, f"{name}__ledger", f"{name}__marks"):
            stack.callback(apis[0].drop_collection, each)
        if former:
            open_collection(apis[0], name, OWN.model, 8, INDEX, create=True)
        start = threading.Barrier(WORKERS)

        def opened(api: MilvusServerApi) -> CollectionStamp:
            start.wait(60)
            return open_for_filling(api, name, OWN, INDEX)

        with ThreadPoolExecutor(WORKERS) as pool:
            stamps = list(pool.map(opened, apis))
        stored = stored_stamp(apis[0], name)
        assert stored is not None
        assert stamps == [stored] * WORKERS
        assert (stored.fillers, stored.append_ids) == (OWN.fillers, "topic-name" if former else "topic-id")
