"""The embedder without a model."""

import numpy as np
import pytest
from structlog.testing import capture_logs

from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import EmbeddingSettings, HashEmbedder, load_embedder
from pipeline.errors import UsageError


def test_equal_texts_are_equal_unit_vectors_and_others_are_not_near() -> None:
    embedder = HashEmbedder("hash:384")
    vectors = embedder.embed_queries(["one", "two", "one"])
    assert vectors.shape == (3, 384)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.array_equal(vectors[0], vectors[2])
    assert abs(float(vectors[0] @ vectors[1])) < 0.3


def test_the_vector_of_a_text_stays_the_same_from_release_to_release() -> None:
    first = HashEmbedder("hash:4").embed_queries(["Kafka"])[0]
    assert first.tolist() == pytest.approx([-0.5260, 0.7113, -0.1092, 0.4532], abs=1e-3)


def test_a_chunk_and_a_query_of_one_text_are_one_vector() -> None:
    embedder = HashEmbedder("hash:8")
    chunks = Chunker(embedder.tokenizer, ChunkingPolicy()).chunk(["one lone \ud800 surrogate"])[0]
    assert np.array_equal(embedder.embed(chunks), embedder.embed_queries(["one lone \ud800 surrogate"]))
    assert embedder.embed([]).shape == (0, 8)


def test_tokens_are_words_with_their_places() -> None:
    text = " one  two\tone\u3000漢字 "
    tokens = HashEmbedder("hash:8").tokenizer.tokenize([text])[0]
    words = [text[start:end] for start, end in zip(tokens.starts, tokens.ends, strict=True)]
    assert words == ["one", "two", "one", "漢字"]
    assert len(tokens.ids) == 4


def test_loading_it_says_loudly_that_there_is_no_model() -> None:
    with capture_logs() as logs:
        embedder = load_embedder(EmbeddingSettings("hash:384"))
    assert embedder.stamp.name == "hash:384"
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("model.none", "warning")]


@pytest.mark.parametrize("model", ["hash:", "hash:1", "hash:x", "hash:-3", "hash:1000000", "hash:३"])
def test_an_invalid_dimension_is_refused(model: str) -> None:
    with pytest.raises(UsageError, match="hash:384"):
        load_embedder(EmbeddingSettings(model))


def test_its_dimension_is_in_its_name_only() -> None:
    with pytest.raises(UsageError, match=r"embedding\.dimensions is 4.*hash:8"):
        load_embedder(EmbeddingSettings("hash:8", dimensions=4))
