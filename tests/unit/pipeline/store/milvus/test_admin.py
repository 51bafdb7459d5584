"""A partition that several workers create at the same time, and that the server does not find at once."""

from typing import Any

import pytest
from pymilvus.client.types import LoadState
from pymilvus.exceptions import MilvusException

from pipeline.errors import NotFound, Unavailable
from pipeline.store.milvus.admin import LATE_PARTITION_WAITS_S, CollectionAdmin
from pipeline.store.milvus.api import ServerInfo
from pipeline.store.milvus.calls import RetryingCaller
from pipeline.store.milvus.error_mapping import RetryPolicy

SERVER = ServerInfo("v2.3.5", (2, 3, 5), lite=False)


class LateClient:
    """Finds a new partition only after some questions."""

    def __init__(self, late: int) -> None:
        self.late = late
        self.listed = ["d20261122"]
        self.loaded: list[str] = []

    def create_partition(self, collection: str, partition: str, **_: Any) -> None:
        assert (collection, partition) == ("docs", "d20261122")

    def list_partitions(self, collection: str, **_: Any) -> list[str]:
        return ["_default", *self.listed]

    def get_load_state(self, collection: str, partition: str = "", **_: Any) -> dict[str, Any]:
        if not partition:
            return {"state": LoadState.Loaded}
        self.late -= 1
        if self.late >= 0:
            raise MilvusException(code=200, message="partition not found[partition=d20261122]")
        return {"state": LoadState.NotLoad}

    def load_partitions(self, collection: str, partitions: list[str], **_: Any) -> None:
        self.loaded += partitions


def create(client: LateClient) -> list[float]:
    slept: list[float] = []
    run = RetryingCaller((MilvusException,), timeout_s=10.0, retry=RetryPolicy(), sleep=slept.append)
    CollectionAdmin(client, SERVER, run).create_partition("docs", "d20261122")
    return slept


def test_a_partition_that_is_found_late_is_loaded() -> None:
    client = LateClient(2)
    assert create(client) == list(LATE_PARTITION_WAITS_S[:2])
    assert client.loaded == ["d20261122"]


def test_a_partition_that_is_listed_and_not_found_in_the_end_is_waited_for_by_the_caller() -> None:
    client = LateClient(99)
    with pytest.raises(Unavailable, match="lists partition d20261122 and does not find it yet"):
        create(client)
    assert client.loaded == []


def test_a_partition_that_is_not_even_listed_is_an_error() -> None:
    client = LateClient(99)
    client.listed = []
    with pytest.raises(NotFound, match="partition not found"):
        create(client)
