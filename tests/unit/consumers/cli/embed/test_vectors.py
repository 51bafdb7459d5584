"""`milvus-stream embed`: vectors as ingest gets them."""

import io
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from consumers.cli.embed import vectors
from consumers.config import Settings
from pipeline.embedding import HashEmbedder
from pipeline.records import Chunk

SETTINGS = Settings.model_validate(
    {"embedding": {"model": "hash:6"}, "chunking": {"max_tokens": 8, "overlap": 2}, "telemetry": {"log_level": "error"}}
)


class Sometimes(HashEmbedder):
    """Makes no numbers of the text `bad`."""

    def embed(self, chunks: Any) -> NDArray[np.float32]:
        rows = super().embed(chunks)
        rows[[chunk.text == "bad" for chunk in chunks]] = np.nan
        return rows


def embedded(texts: Iterable[str], *, query: bool = False) -> list[vectors.TextVector | str]:
    return list(vectors.vectors(SETTINGS, Sometimes("hash:6"), texts, query=query))


def test_a_text_of_several_chunks_has_a_vector_for_each() -> None:
    words = " ".join(f"w{number}" for number in range(14))
    found = embedded(["one", words, "two"])
    assert [(each.text, each.chunk, each.chunks) for each in found if isinstance(each, vectors.TextVector)] == [
        (0, 0, 1), (1, 0, 2), (1, 1, 2), (2, 0, 1),
    ]  # fmt: skip
    assert all(isinstance(each, vectors.TextVector) and each.tokens <= 8 for each in found)
    last = found[-1]
    assert isinstance(last, vectors.TextVector)
    chunk = Chunk(0, 0, 3, "two", np.zeros(1, dtype=np.int32))
    assert np.array_equal(last.vector, HashEmbedder("hash:6").embed([chunk])[0])


def test_a_query_is_not_cut_into_chunks() -> None:
    found = embedded(["x " * 30, "y"], query=True)
    assert [(each.chunks, each.tokens) for each in found if isinstance(each, vectors.TextVector)] == [(1, 30), (1, 1)]


def test_a_text_without_a_vector_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["good", " \t", "bad", "good"] * 100  # more than one group
    found = embedded(texts)
    assert [type(each) for each in found] == [vectors.TextVector, str, str, vectors.TextVector] * 100
    assert "text 1 " in str(found[1])
    assert "text 2:" in str(found[2])
    assert vectors.run(SETTINGS, texts[:2], query=False, whole=True) == 1
    printed = capsys.readouterr()
    assert [json.loads(line)["text"] for line in printed.out.splitlines() if line.startswith("{")] == [0]
    assert "text 1 is blank" in printed.err


def test_the_forms_for_people_and_for_programs() -> None:
    vector = HashEmbedder("hash:6").embed_queries(["Kafka"])[0]
    one = vectors.TextVector(3, 1, 2, 5, vector)
    value = json.loads(one.json_line())
    assert np.array_equal(np.array(value.pop("vector"), dtype=np.float32), vector)
    assert value == {"text": 3, "chunk": 1, "chunks": 2, "tokens": 5, "dimension": 6, "norm": 1.0}
    assert one.line().startswith("text 3, chunk 1 of 2: 5 tokens, 6 dimensions, norm 1.0000: ")
    assert one.line().endswith(" …")


def test_a_dash_is_the_lines_of_standard_input() -> None:
    assert list(vectors.expand(["a", "-", "b"], io.StringIO("x\n\n y \n"))) == ["a", "x", "", " y ", "b"]
