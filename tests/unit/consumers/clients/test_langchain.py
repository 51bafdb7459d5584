"""The LangChain retriever over an application on a socket."""

import asyncio
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from pydantic import SecretStr, ValidationError
from starlette.responses import Response

from consumers.clients.langchain import MilvusStreamRetriever, SearchFailed
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.query_app import query_app, served
from tests.support.rigs.search import Library


@pytest.fixture
def address(milvus: FakeMilvus) -> Iterator[str]:
    with query_app(milvus) as made, served(made.app) as opened:
        yield opened


def test_documents_keep_their_metadata_and_what_the_search_says(address: str, library: Library) -> None:
    library.put("a", 0.0, title="A", source="wiki", tenant="t")
    (document,) = MilvusStreamRetriever(url=address + "/").invoke("q")
    assert (document.id, document.page_content) == ("a", "chunk 0 of a")
    said = document.metadata.pop("_search")
    assert document.metadata == {"title": "A", "source": "wiki", "tenant": "t"}
    assert said.pop("score") <= 1.0
    assert said == {
        "doc_id": "a",
        "scores": {},
        "event_time": "2026-11-22T00:00:00Z",
        "chunk": 0,
        "partition": "d20261122",
        "source": {"topic": "topic", "partition": 0, "offset": 1},
        "mode": "dense",
        "partial": False,
        "warnings": [],
        "freshness": {"event_time": None, "lag_s": None},
    }


def test_time_filter_limit_and_options_are_sent(address: str, library: Library) -> None:
    library.put("old", 0.0, "2026-11-01", lang="en")
    for number in range(3):
        library.put(f"en{number}", 0.0, lang="en", n=number)
    library.put("de", 0.0, lang="de")
    retriever = MilvusStreamRetriever(
        url=address,
        limit=2,
        time={"from": "2026-11-20"},
        filter={"type": "eq", "key": "lang", "value": "en"},
        options={"fields": ["n"], "limit": 9},
    )
    documents = asyncio.run(retriever.ainvoke("q"))
    assert len(documents) == 2
    assert all(document.id is not None and document.id.startswith("en") for document in documents)
    assert all(set(document.metadata) == {"n", "_search"} for document in documents)


def test_a_refusal_says_what_is_wrong(address: str) -> None:
    with pytest.raises(SearchFailed, match="422: The request is not valid: /time/last: must be") as refused:
        MilvusStreamRetriever(url=address, time={"last": "yesterday"}).invoke("q")
    assert refused.value.status == 422
    with pytest.raises(SearchFailed, match="/freshness"):
        MilvusStreamRetriever(url=address, freshness={"nothing": 1}).invoke("q")


def test_another_server_is_not_taken_for_a_query_worker(address: str) -> None:
    with pytest.raises(SearchFailed, match="404"):
        MilvusStreamRetriever(url=f"{address}/elsewhere").invoke("q")


@pytest.mark.parametrize("answer", ["[]", "<html>", "{}"])
def test_an_answer_of_another_kind_is_refused(answer: str) -> None:
    app = FastAPI()

    @app.post("/v1/search")
    async def search() -> Response:
        return Response(answer)

    with served(app) as other, pytest.raises(SearchFailed, match="no answer of a query worker"):
        MilvusStreamRetriever(url=other).invoke("q")


def test_a_key_does_not_show_and_a_misspelt_field_is_refused(address: str) -> None:
    assert "secret" not in repr(MilvusStreamRetriever(url=address, api_key=SecretStr("secret")))
    with pytest.raises(ValidationError):
        MilvusStreamRetriever(url=address, tiem={"last": "1h"})  # type: ignore[call-arg]
