"""`POST /v1/embeddings`: the vectors of the model, in OpenAI's shape, and its errors."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
import structlog

from consumers.query.routes.openai_embeddings import LARGE_BODIES_BYTES
from pipeline.embedding import HashEmbedder, embed_documents
from pipeline.query import EmbeddingService, InvalidRequest, Overloaded, QueryBatcher
from pipeline.records import Chunk
from tests.support.fakes.milvus import FakeMilvus
from tests.support.rigs.query_app import QueryApp, query_app

PATH = "/v1/embeddings"
JSON = {"content-type": "application/json"}
SEARCH = ("/v1/search", {"query": "q"})


def error(response: httpx.Response, status: int, param: str | None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body: dict[str, Any] = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["param"] == param
    return body["error"]  # type: ignore[no-any-return]


def test_texts_are_embedded_as_queries_in_their_order(app: QueryApp) -> None:
    texts = [f"text {number}" for number in range(100)]
    body = app.post(PATH, input=texts, model="hash:2").json()
    assert {key: body[key] for key in ("object", "model", "usage")} == {
        "object": "list",
        "model": "hash:2",
        "usage": {"prompt_tokens": 200, "total_tokens": 200},
    }
    assert [(one["object"], one["index"]) for one in body["data"]] == [("embedding", index) for index in range(100)]
    vectors = np.array([one["embedding"] for one in body["data"]], np.float32)
    np.testing.assert_array_equal(vectors, app.model.embed_queries(texts))


def test_one_text_is_answered_by_a_list_of_one(app: QueryApp) -> None:
    (one,) = app.post(PATH, input="a text").json()["data"]
    assert one["index"] == 0
    assert one["embedding"] == pytest.approx(app.model.embed_queries(["a text"])[0].tolist())


def test_base64_has_the_same_numbers(app: QueryApp) -> None:
    (one,) = app.post(PATH, input="a text", encoding_format="base64").json()["data"]
    numbers = np.frombuffer(base64.b64decode(one["embedding"]), "<f4")
    np.testing.assert_array_equal(numbers, app.model.embed_queries(["a text"])[0])


class Gated(HashEmbedder):
    """A model that waits until it is let go."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.entered, self.free = threading.Event(), threading.Event()

    def embed_queries(self, texts: Any) -> Any:
        self.entered.set()
        assert self.free.wait(10)
        return super().embed_queries(texts)


class TwoWays(HashEmbedder):
    """A model whose documents differ from its queries, as with prompts."""

    def embed(self, chunks: Any) -> Any:
        return self.embed_queries([f"passage: {chunk.text}" for chunk in chunks])


def service_of(model: HashEmbedder, queries: QueryBatcher, documents: QueryBatcher) -> EmbeddingService:
    return EmbeddingService(model, queries, documents)


def test_documents_are_embedded_with_their_own_prompt() -> None:
    model = TwoWays("hash:4")
    with (
        closing(QueryBatcher(model.embed_queries)) as queries,
        closing(QueryBatcher(lambda texts: embed_documents(model, texts), cache_size=0)) as documents,
    ):
        service = service_of(model, queries, documents)
        as_query = asyncio.run(service.embed(["x"], "query"))
        as_document = asyncio.run(service.embed(["x"], "document"))
    np.testing.assert_array_equal(as_query.vectors, model.embed_queries(["x"]))
    chunk = Chunk(0, 0, 1, "x", model.tokenizer.tokenize(["x"])[0].ids)
    np.testing.assert_array_equal(as_document.vectors, model.embed([chunk]))
    assert (as_query.vectors != as_document.vectors).any()


def test_a_text_without_a_vector_is_refused_with_its_place() -> None:
    model = HashEmbedder("hash:4")

    def embed(texts: Any) -> Any:
        vectors = model.embed_queries(texts)
        vectors[[text == "bad" for text in texts]] = np.nan
        return vectors

    with (
        closing(QueryBatcher(embed)) as queries,
        closing(QueryBatcher(embed)) as documents,
        pytest.raises(InvalidRequest) as refused,
    ):
        asyncio.run(service_of(model, queries, documents).embed(["good"] * 40 + ["bad"], "query"))
    assert refused.value.at == "/input/40"


def test_a_full_queue_is_overload() -> None:
    model = HashEmbedder("hash:4")
    with (
        closing(QueryBatcher(model.embed_queries, max_waiting=0)) as queries,
        closing(QueryBatcher(model.embed_queries)) as documents,
        pytest.raises(Overloaded),
    ):
        asyncio.run(service_of(model, queries, documents).embed(["x"], "query"))


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "input", "missing"),
        ({"input": ""}, "input", "blank"),
        ({"input": []}, "input", "at least one"),
        ({"input": 7}, "input", "text"),
        ({"input": None}, "input", "text"),
        ({"input": ["a", None]}, "input[1]", "text"),
        ({"input": ["a", " "]}, "input[1]", "blank"),
        ({"input": [*["a"] * 1_024, " "]}, "input", "1,025 texts"),
        ({"input": ["x" * 65_537]}, "input[0]", "65,536"),
        ({"input": [1, 2, 3]}, "input", "check_embedding_ctx_length"),
        ({"input": [[1, 2], [3]]}, "input", "check_embedding_ctx_length"),
        ({"input": ["a", "w " * 257]}, "input[1]", "257 tokens"),
        ({"input": ["a"] * 1_025}, "input", "1,024"),
        ({"input": "\ud800"}, "input", "surrogate"),
        ({"input": "a", "model": "text-embedding-3-small"}, "model", "hash:2"),
        ({"input": "a", "dimensions": 1}, "dimensions", "2"),
        ({"input": "a", "dimensions": True}, "dimensions", "integer"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "base64"),
        ({"input": "a", "input_type": "passage"}, "input_type", "document"),
        ({"input": "a", "truncate": True}, "truncate", "known are input"),
    ],
)
def test_what_is_refused(app: QueryApp, body: dict[str, object], param: str, words: str) -> None:
    sent = json.dumps(body).encode()
    refused = error(app.call("POST", PATH, content=sent, headers={"content-type": "application/json"}), 400, param)
    assert words in refused["message"]
    assert refused["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b'"' + b"x" * 4_194_304 + b'"', "application/json", 413),
    ],
)
def test_bodies_that_are_no_json_of_a_permitted_size(app: QueryApp, content: bytes, kind: str, status: int) -> None:
    error(app.call("POST", PATH, content=content, headers={"content-type": kind}), status, None)


def test_the_components_of_an_answer_are_bounded(milvus: FakeMilvus) -> None:
    with query_app(milvus, HashEmbedder("hash:32768")) as large:
        assert "at most 32 " in error(large.post(PATH, input=["a"] * 33), 400, "input")["message"]
        assert large.post(PATH, input=["a"] * 32, encoding_format="base64").status_code == 200


def test_places_are_those_of_the_searches(milvus: FakeMilvus) -> None:
    model = Gated("hash:2")

    async def run(busy: QueryApp) -> list[httpx.Response]:
        async with busy.client() as client:
            first = asyncio.ensure_future(client.post(PATH, json={"input": "a"}))
            await asyncio.to_thread(model.entered.wait)
            others = [await client.post(path, json=body) for path, body in ((PATH, {"input": "b"}), SEARCH)]
            model.free.set()
            return [*others, await first]

    with query_app(milvus, model, concurrency=1) as busy:
        refused, search, first = asyncio.run(run(busy))
    assert error(refused, 429, None)["type"] == "rate_limit_error"
    assert refused.headers["retry-after"]
    assert search.status_code == 429
    assert first.status_code == 200


def slow_senders(
    app: QueryApp, first: bytes, count: int, refused: int = 0
) -> tuple[httpx.Response, list[httpx.Response]]:
    """The answer to a small request while so many others have sent only this much, and the answers to those."""

    async def run() -> tuple[httpx.Response, list[httpx.Response]]:
        free = asyncio.Event()
        begun = asyncio.Semaphore(0)

        async def body() -> AsyncIterator[bytes]:
            yield first
            begun.release()
            await free.wait()
            yield b'"a"}'

        async with app.client() as client:
            slow = [asyncio.ensure_future(client.post(PATH, content=body(), headers=JSON)) for _ in range(count)]
            for _ in slow[refused:]:
                await begun.acquire()
            small = await client.post(PATH, json={"input": "a"})
            free.set()
            return small, await asyncio.gather(*slow)

    return asyncio.run(asyncio.wait_for(run(), 20))


def test_slow_senders_hold_no_place(app: QueryApp) -> None:
    small, slow = slow_senders(app, b'{"input": ', 40)
    assert small.status_code == 200
    assert [response.status_code for response in slow].count(200) >= 4, "as many as there are places"


def test_the_memory_for_large_bodies_that_are_being_read_is_bounded(app: QueryApp) -> None:
    most = LARGE_BODIES_BYTES // (3 * 1024 * 1024)
    small, slow = slow_senders(app, b" " * 3 * 1024 * 1024 + b'{"input": ', most + 3, refused=3)
    assert small.status_code == 200, "small ones are read all the same"
    assert [response.status_code for response in slow].count(429) >= 3, "those beyond, and those without a place"
    assert app.post(PATH, input="a").status_code == 200


def test_a_local_model_keeps_its_folder_to_itself(milvus: FakeMilvus) -> None:
    with query_app(milvus) as local:
        stamp = local.model.stamp
        object.__setattr__(stamp, "name", "/srv/someone/models/mini/")
        body = local.post(PATH, input="a", model="mini").json()
        assert body["model"] == "mini"
        assert "someone" not in local.post(PATH, input="a", model="x").text


def test_the_log_has_no_text(app: QueryApp) -> None:
    with structlog.testing.capture_logs() as lines:
        app.post(PATH, input="my secret")
        app.post(PATH, input=["my secret", ""])
    assert [line["event"] for line in lines] == ["embeddings.answered", "embeddings.failed"]
    assert "secret" not in json.dumps(lines)


def test_answers_match_the_published_schema(app: QueryApp) -> None:
    published = app.call("GET", "/openapi.json").json()
    route = published["paths"][PATH]["post"]
    answer = route["responses"]["200"]["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator({**published, **answer})
    for form in ("float", "base64"):
        validator.validate(app.post(PATH, input=["a", "b"], encoding_format=form).json())
    refusal = route["responses"]["400"]["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator({**published, **refusal}).validate(app.post(PATH, input=[]).json())
    request = {"$ref": "#/components/schemas/EmbeddingsRequest"}
    assert route["requestBody"]["content"]["application/json"]["schema"] == request
