"""Which searcher a query worker builds over a collection that others fill."""

from dataclasses import asdict

import numpy as np
import pytest

from consumers.config import Settings, load_settings
from consumers.wiring.collection import open_configured
from consumers.wiring.searches import searcher
from pipeline.embedding import HashEmbedder
from pipeline.query import Searcher, parse_request
from pipeline.store import IndexSettings, open_collection
from tests.support.fakes.milvus import FakeMilvus

MODEL = HashEmbedder("hash:8")


def settings(mode: str) -> Settings:
    return load_settings(None, {}, ["embedding.model=hash:8", "milvus.index.type=FLAT", f"mode={mode}"])


def shown(search: Searcher) -> list[int]:
    """The offsets of what is found."""
    request = parse_request({"query": "q", "group_by": None})
    found = search.search(request, np.ones((1, 8), np.float32), 5.0, now_ms=0)
    return sorted(result.source.offset for result in found.results[0])


def put_two_records_of_one_document(api: FakeMilvus) -> None:
    row = {"doc_id": "a", "chunk": 0, "text": "text", "vector": np.ones(8, np.float32), "event_time": 0}
    for offset in (1, 2):
        position = {"kafka_topic": "t", "kafka_partition": 0, "kafka_offset": offset}
        api.upsert("documents", None, [{**row, **position, "id": f"{offset:040x}"}])


@pytest.mark.parametrize("configured", ["upsert", "append"])
@pytest.mark.parametrize(("stamped", "offsets"), [("upsert", [2]), ("append", [1, 2])])
@pytest.mark.parametrize("former", [False, True])
def test_the_mode_is_that_of_the_collection(configured: str, stamped: str, offsets: list[int], former: bool) -> None:
    api = FakeMilvus()
    if former:  # then its marks carry the stamp
        open_collection(api, "documents", asdict(MODEL.stamp), 8, IndexSettings("FLAT"), create=True)
    open_configured(settings(stamped), api, MODEL)
    put_two_records_of_one_document(api)
    assert shown(searcher(settings(configured), api, MODEL)) == offsets


@pytest.mark.parametrize(("configured", "offsets"), [("upsert", [2]), ("append", [1, 2])])
def test_a_collection_without_a_stamped_mode_is_searched_as_configured(configured: str, offsets: list[int]) -> None:
    api = FakeMilvus()
    open_collection(api, "documents", asdict(MODEL.stamp), 8, IndexSettings("FLAT"), create=True)
    put_two_records_of_one_document(api)
    assert shown(searcher(settings(configured), api, MODEL)) == offsets


def test_a_mode_of_a_newer_version_is_searched_as_configured() -> None:
    api = FakeMilvus()
    more = {"id": "1", "rules": {"mode": "merge"}}
    open_collection(api, "documents", asdict(MODEL.stamp), 8, IndexSettings("FLAT"), create=True, more=more)
    put_two_records_of_one_document(api)
    assert shown(searcher(settings("append"), api, MODEL)) == [1, 2]


def test_a_collection_made_after_the_start_has_the_mode_of_its_stamp() -> None:
    api = FakeMilvus()
    search = searcher(settings("upsert"), api, MODEL)
    open_configured(settings("append"), api, MODEL)
    put_two_records_of_one_document(api)
    assert shown(search) == [1, 2]
