"""The engine gives the vectors that sentence-transformers gives, for every kind of model."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import Embedder, EmbeddingSettings, load_embedder
from pipeline.embedding.engine.forward_pass import Forward
from pipeline.embedding.engine.model_embedder import ModelEmbedder
from pipeline.embedding.engine.torch_passes import TorchPasses
from pipeline.errors import Unavailable
from tests.unit.pipeline.embedding.loaded_models import (
    TEXTS,
    WORDS,
    cosines,
    distances,
    prepared_settings,
    settings,
    whole,
)
from tests.unit.pipeline.embedding.tiny_models import KINDS, build, without_special_tokens


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("bert-mean", tmp_path_factory.mktemp("tiny"))


class Pair(NamedTuple):
    """One model loaded twice: by sentence-transformers, and by what is tested."""

    reference: SentenceTransformer
    embedder: Embedder


ENGINES = {"torch": settings, "openvino": prepared_settings}


@pytest.fixture(scope="module", params=[(engine, kind) for kind in sorted(KINDS) for engine in ENGINES], ids="-".join)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    engine, kind = request.param
    folder = build(kind, tmp_path_factory.mktemp(kind))
    embedder = load_embedder(ENGINES[engine](folder, token_budget=64))
    assert embedder.engine == engine
    yield Pair(SentenceTransformer(str(folder), device="cpu", local_files_only=True), embedder)
    embedder.close()


def test_vectors_are_those_of_sentence_transformers(pair: Pair) -> None:
    documents = pair.embedder.embed(whole(pair.embedder, TEXTS))
    queries = pair.embedder.embed_queries(TEXTS)
    expected = pair.reference.encode_document(TEXTS, show_progress_bar=False)
    assert documents.shape == expected.shape == (len(TEXTS), pair.embedder.stamp.dimension)
    assert documents.dtype == np.float32
    assert distances(documents, expected).max() <= 1e-5
    assert distances(queries, pair.reference.encode_query(TEXTS, show_progress_bar=False)).max() <= 1e-5
    # The texts must differ, or the comparison says nothing.
    assert cosines(documents[:-1], documents[1:]).min() < 0.99


def test_a_chunk_as_long_as_allowed_is_within_what_the_model_reads(pair: Pair) -> None:
    chunks = Chunker(pair.embedder.tokenizer, ChunkingPolicy(overlap=0)).chunk([" ".join(WORDS * 20)])[0]
    assert len(chunks) > 2
    # Truncated by sentence-transformers, the vector would be another than that of all the ids.
    expected = pair.reference.encode_document([chunk.text for chunk in chunks], show_progress_bar=False)
    assert cosines(pair.embedder.embed(chunks), expected).min() >= 0.995


def test_a_query_over_the_limit_is_cut_off_as_sentence_transformers_does(pair: Pair) -> None:
    text = " ".join(WORDS * 50)
    expected = pair.reference.encode_query([text], show_progress_bar=False)
    assert distances(pair.embedder.embed_queries([text]), expected).max() <= 1e-5


def test_nothing_to_embed_gives_no_rows(pair: Pair) -> None:
    assert pair.embedder.embed([]).shape == (0, pair.embedder.stamp.dimension)
    assert pair.embedder.embed_queries([]).shape == (0, pair.embedder.stamp.dimension)


def test_the_batch_of_a_text_does_not_change_its_vector(pair: Pair) -> None:
    together = pair.embedder.embed_queries(TEXTS)
    alone = np.concatenate([pair.embedder.embed_queries([text]) for text in TEXTS])
    assert cosines(together, alone).min() >= 1 - 1e-5


class Memory(torch.nn.Module):
    """A transformer on a device that holds only so many tokens at once."""

    def __init__(self, inner: torch.nn.Module, tokens: int) -> None:
        super().__init__()
        self._inner = inner
        self._tokens = tokens
        self.passes: list[int] = []

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        size = features["input_ids"].numel()
        if size > self._tokens:
            raise torch.OutOfMemoryError(f"cannot allocate {size}")
        self.passes.append(size)
        result: dict[str, torch.Tensor] = self._inner(features)
        return result


def load_with_torch(chosen: EmbeddingSettings) -> ModelEmbedder:
    embedder = load_embedder(chosen)
    assert isinstance(embedder, ModelEmbedder)
    return embedder


def forward_of(embedder: ModelEmbedder) -> Forward:
    passes = embedder._documents.get().passes
    assert isinstance(passes, TorchPasses)
    return passes._forward


def with_memory(embedder: ModelEmbedder, tokens: int) -> Memory:
    forward = forward_of(embedder)
    memory = Memory(forward._transformer, tokens)
    forward._transformer = memory
    return memory


def test_a_batch_that_memory_does_not_hold_is_halved_until_it_does(tiny: Path) -> None:
    embedder = load_with_torch(settings(tiny, token_budget=4096, threads=1))
    texts = [f"{text} {number}" for number in range(8) for text in TEXTS[5:]]
    expected = embedder.embed_queries(texts)
    memory = with_memory(embedder, 100)
    assert np.allclose(embedder.embed_queries(texts), expected, atol=1e-5)
    assert max(memory.passes) <= 100
    embedder.close()


def test_a_chunk_that_memory_never_holds_says_so(tiny: Path) -> None:
    embedder = load_with_torch(settings(tiny))
    with_memory(embedder, 1)
    with pytest.raises(Unavailable, match=r"one chunk of \d+ tokens"):
        embedder.embed_queries(TEXTS)
    embedder.close()


def test_a_failing_forward_is_not_taken_for_a_lack_of_memory(tiny: Path) -> None:
    embedder = load_with_torch(settings(tiny))
    forward_of(embedder)._head.append(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError):
        embedder.embed_queries(TEXTS)
    embedder.close()


def test_nan_from_the_model_is_returned(tiny: Path) -> None:
    embedder = load_with_torch(settings(tiny))
    table = forward_of(embedder)._transformer.model.get_parameter("embeddings.word_embeddings.weight")
    broken = embedder.tokenizer.tokenize(["fox"])[0].ids[0]
    with torch.no_grad():
        table[int(broken)] = float("nan")
    vectors = embedder.embed_queries(["fox", "dog"])
    assert np.isnan(vectors[0]).all()
    assert np.isfinite(vectors[1]).all()
    embedder.close()


def test_a_text_without_tokens_has_no_vector_and_spoils_no_other(tmp_path: Path) -> None:
    embedder = load_with_torch(settings(without_special_tokens(tmp_path)))
    texts = ["\u0301", "fox", "", "dog", "\u0302\u0301"]
    for vectors in (embedder.embed(whole(embedder, texts)), embedder.embed_queries(texts)):
        assert np.isnan(vectors).all(axis=1).tolist() == [True, False, True, False, True]
        assert distances(vectors[[1, 3]], embedder.embed_queries(["fox", "dog"])).max() <= 1e-5
    assert np.isnan(embedder.embed_queries(["\u0301"])).all()
    embedder.close()
