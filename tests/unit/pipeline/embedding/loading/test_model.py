"""Own batches give the vectors that sentence-transformers gives, for every kind of model."""

import json
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import Embedder, EmbeddingSettings, load_embedder
from pipeline.embedding.engine import batching as packing
from pipeline.embedding.engine import forward_pass as forward
from pipeline.embedding.engine.batching import SpecialTokens
from pipeline.embedding.engine.transformer_embedder import TransformerEmbedder
from pipeline.embedding.kernels import matmul_attention as product_attention
from pipeline.embedding.kernels import varlen_attention as flat_attention
from pipeline.embedding.loading.model import load_model
from pipeline.errors import Unavailable, UsageError
from pipeline.records import Chunk
from tests.unit.pipeline.embedding.tiny_models import HIDDEN, KINDS, build, minilm, without_special_tokens

SENTENCE = "the quick brown Fox jumps over 27 lazy dogs, doing nothing else all day. Why? Because: it can!"
WORDS = SENTENCE.split()
TEXTS = [
    "a",
    "",
    "  Why?",
    "the fox",
    "ébène 漢字 the",
    *(" ".join((WORDS * 3)[start : start + 11]) for start in range(9)),
    *(" ".join((WORDS * 3)[:length]) for length in (2, 3, 5, 8, 13, 16)),
]


def settings(folder: Path, **changes: object) -> EmbeddingSettings:
    defaults: dict[str, object] = {"model": str(folder), "device": "cpu", "dtype": "float32", "threads": 2}
    return EmbeddingSettings(**(defaults | changes))  # type: ignore[arg-type]


def whole(embedder: Embedder, texts: list[str]) -> list[Chunk]:
    """Each text as one chunk; the texts must fit."""
    chunker = Chunker(embedder.tokenizer, ChunkingPolicy(overlap=0))
    chunked = chunker.chunk(texts)
    assert all(len(chunks) == 1 for chunks in chunked)
    return [chunks[0] for chunks in chunked]


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray(np.sum(left * right, axis=1) / norms, dtype=np.float32)


def distances(found: NDArray[np.float32], expected: NDArray[np.float32]) -> NDArray[np.float32]:
    """Between the vectors, as shares of their lengths."""
    apart = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return np.asarray(apart, dtype=np.float32)


class Pair(NamedTuple):
    """One model loaded twice: by sentence-transformers, and by what is tested."""

    reference: SentenceTransformer
    embedder: Embedder


@pytest.fixture(scope="module", params=sorted(KINDS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = build(request.param, tmp_path_factory.mktemp(request.param))
    embedder = load_embedder(settings(folder, token_budget=64))
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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("bert-mean", tmp_path_factory.mktemp("tiny"))


def test_the_real_model_from_its_package() -> None:
    reference = SentenceTransformer(str(minilm()), device="cpu", local_files_only=True)
    embedder = load_embedder(settings(Path("sentence-transformers/all-MiniLM-L6-v2"), threads=None))
    expected = reference.encode(TEXTS, show_progress_bar=False)
    assert cosines(embedder.embed(whole(embedder, TEXTS)), expected).min() >= 0.9999
    assert cosines(embedder.embed_queries(TEXTS), expected).min() >= 0.9999
    stamp = embedder.stamp
    assert (stamp.name, stamp.dimension, stamp.pooling, stamp.max_tokens) == (
        "sentence-transformers/all-MiniLM-L6-v2", 384, "mean", 256,
    )  # fmt: skip
    assert embedder.tokenizer.max_tokens == 254
    embedder.close()


def test_no_row_of_the_real_model_needs_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its texts nor what fills the row up have scores that are too large for plain products."""
    asked: list[Sequence[int]] = []

    def matmul_attention(
        rows: Sequence[torch.Tensor], lengths: Sequence[int], scale: float | None, _: object
    ) -> object:
        def otherwise(_: object, lengths: Sequence[int]) -> torch.Tensor:
            asked.append(lengths)
            return torch.zeros_like(rows[2])

        counted.append(lengths)
        return product_attention.matmul_attention(rows, lengths, scale, otherwise)

    counted: list[Sequence[int]] = []
    for module in (flat_attention, forward):
        monkeypatch.setattr(module, "multiplied_by_onednn", lambda _: True)
    monkeypatch.setattr(flat_attention, "matmul_attention", matmul_attention)
    embedder = load_embedder(settings(Path("sentence-transformers/all-MiniLM-L6-v2")))
    asked.clear()
    counted.clear()
    for count in range(50, 66):
        embedder.embed(whole(embedder, ["what a search engine reads " * (count // 5) + "one " * (count % 5)]))
    embedder.close()
    assert {sum(lengths) for lengths in counted} == {64, 80}
    assert asked == []


def test_a_query_over_the_limit_is_cut_off_as_sentence_transformers_does(pair: Pair) -> None:
    text = " ".join(WORDS * 50)
    expected = pair.reference.encode_query([text], show_progress_bar=False)
    assert distances(pair.embedder.embed_queries([text]), expected).max() <= 1e-5


_OLD_POOLING = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "lasttoken": "lasttoken"}


def spelled_as_before(folder: Path, old: Path) -> Path:
    """A copy with the module names and pooling settings that sentence-transformers wrote before version 6."""
    shutil.copytree(folder, old)
    modules = json.loads((old / "modules.json").read_text())
    for module in modules:
        module["type"] = f"sentence_transformers.models.{module['type'].rpartition('.')[2]}"
    (old / "modules.json").write_text(json.dumps(modules))
    path = old / "1_Pooling" / "config.json"
    now = json.loads(path.read_text())
    modes = [now["pooling_mode"]] if isinstance(now["pooling_mode"], str) else now["pooling_mode"]
    booleans = {f"pooling_mode_{name}": mode in modes for mode, name in _OLD_POOLING.items()}
    before = {"word_embedding_dimension": now["embedding_dimension"], "include_prompt": now["include_prompt"]}
    path.write_text(json.dumps(before | booleans))
    return old


@pytest.mark.parametrize("kind", ["bert-dense-prompts", "bge-m3", "qwen3-lasttoken", "xlm-roberta-default-prompt"])
def test_the_old_spelling_of_the_pooling_is_the_same_model(kind: str, tmp_path: Path) -> None:
    new = build(kind, tmp_path)
    old = spelled_as_before(new, tmp_path / "old")
    first, second = load_embedder(settings(new)), load_embedder(settings(old))
    assert first.stamp.fingerprint == second.stamp.fingerprint
    assert np.allclose(first.embed_queries(TEXTS), second.embed_queries(TEXTS), atol=1e-6)
    first.close()
    second.close()


def test_another_pooling_or_weight_is_another_model(tiny: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(tiny, changed)
    pooling = {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": True}
    (changed / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    first, second = load_embedder(settings(tiny)), load_embedder(settings(changed))
    assert first.stamp.digest == second.stamp.digest
    assert first.stamp.fingerprint != second.stamp.fingerprint
    first.close()
    second.close()


# Unit vectors, vectors of any length, two Dense modules, and a model that keeps a part of its vectors itself.
@pytest.mark.parametrize("kind", ["bert-mean", "gte-modernbert", "embedding-gemma", "bert-truncated"])
def test_the_first_components_are_a_vector_of_their_own(kind: str, tmp_path: Path) -> None:
    folder = build(kind, tmp_path)
    every, first = load_embedder(settings(folder)), load_embedder(settings(folder, dimensions=8))
    expected = every.embed_queries(TEXTS)[:, :8]
    if kind != "gte-modernbert":  # which does not normalise, and is not made to
        norms = np.linalg.norm(expected, axis=1, keepdims=True)
        assert norms.max() < 0.99
        expected = expected / norms
    found = first.embed_queries(TEXTS)
    assert found.shape == (len(TEXTS), 8)
    assert distances(found, expected).max() <= 1e-5
    assert (first.stamp.dimension, first.stamp.digest) == (8, every.stamp.digest)
    assert first.stamp.fingerprint != every.stamp.fingerprint
    every.close()
    first.close()


def test_all_components_are_the_model_as_it_is(tiny: Path) -> None:
    default, spelled_out = load_embedder(settings(tiny)), load_embedder(settings(tiny, dimensions=HIDDEN))
    assert default.stamp == spelled_out.stamp
    assert distances(spelled_out.embed_queries(["fox"]), default.embed_queries(["fox"])).max() <= 1e-6
    default.close()
    spelled_out.close()


@pytest.mark.parametrize("dimensions", [0, -1, HIDDEN + 1])
def test_dimensions_that_the_model_does_not_have_are_refused(tiny: Path, dimensions: int) -> None:
    with pytest.raises(UsageError, match=f"embedding.dimensions is {dimensions}, .* 1 to {HIDDEN}"):
        load_embedder(settings(tiny, dimensions=dimensions))


@pytest.mark.parametrize(("kind", "positions"), [("xlm-roberta-default-prompt", 130), ("mpnet", 66)])
def test_a_limit_beyond_the_positions_a_model_has_is_not_believed(kind: str, positions: int, tmp_path: Path) -> None:
    folder = build(kind, tmp_path)
    config = folder / "sentence_bert_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_seq_length": positions}))
    tokenizer_config = folder / "tokenizer_config.json"
    changed = json.loads(tokenizer_config.read_text()) | {"model_max_length": positions}
    tokenizer_config.write_text(json.dumps(changed))
    embedder = load_embedder(settings(folder))
    assert embedder.stamp.max_tokens == positions - 2  # its first two positions are never used
    assert np.isfinite(embedder.embed_queries([" ".join(WORDS * 20)])).all()
    embedder.close()


def test_bfloat16_is_the_same_model_and_near(tiny: Path) -> None:
    exact, rounded = load_embedder(settings(tiny)), load_embedder(settings(tiny, dtype="bfloat16"))
    assert (exact.dtype, rounded.dtype) == ("float32", "bfloat16")
    assert exact.stamp == rounded.stamp
    assert 0.99 <= cosines(exact.embed_queries(TEXTS), rounded.embed_queries(TEXTS)).min() < 0.9999999
    exact.close()
    rounded.close()


def test_nothing_to_embed_gives_no_rows(pair: Pair) -> None:
    assert pair.embedder.embed([]).shape == (0, pair.embedder.stamp.dimension)
    assert pair.embedder.embed_queries([]).shape == (0, pair.embedder.stamp.dimension)


def test_the_batch_a_text_stands_in_does_not_change_its_vector(pair: Pair) -> None:
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


def with_memory(embedder: TransformerEmbedder, tokens: int) -> Memory:
    forward = embedder.runner._forward
    memory = Memory(forward._transformer, tokens)
    forward._transformer = memory
    return memory


def test_a_batch_that_memory_does_not_hold_is_halved_until_it_does(tiny: Path) -> None:
    embedder = load_model(settings(tiny, token_budget=4096, threads=1))
    texts = [f"{text} {number}" for number in range(8) for text in TEXTS[5:]]
    expected = embedder.embed_queries(texts)
    memory = with_memory(embedder, 100)
    assert np.allclose(embedder.embed_queries(texts), expected, atol=1e-5)
    assert max(memory.passes) <= 100
    embedder.close()


def test_a_chunk_that_memory_never_holds_says_so(tiny: Path) -> None:
    embedder = load_model(settings(tiny))
    with_memory(embedder, 1)
    with pytest.raises(Unavailable, match=r"one chunk of \d+ tokens"):
        embedder.embed_queries(TEXTS)
    embedder.close()


def test_a_failing_forward_is_not_taken_for_a_lack_of_memory(tiny: Path) -> None:
    embedder = load_model(settings(tiny))
    embedder.runner._forward._head.append(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError):
        embedder.embed_queries(TEXTS)
    embedder.close()


def test_what_the_model_makes_of_a_text_is_not_hidden(tiny: Path) -> None:
    embedder = load_model(settings(tiny))
    table = embedder.runner._forward._transformer.model.get_parameter("embeddings.word_embeddings.weight")
    broken = embedder.tokenizer.tokenize(["fox"])[0].ids[0]
    with torch.no_grad():
        table[int(broken)] = float("nan")
    vectors = embedder.embed_queries(["fox", "dog"])
    assert np.isnan(vectors[0]).all()
    assert np.isfinite(vectors[1]).all()
    embedder.close()


def test_a_text_without_tokens_has_no_vector_and_spoils_no_other(tmp_path: Path) -> None:
    embedder = load_model(settings(without_special_tokens(tmp_path)))
    texts = ["\u0301", "fox", "", "dog", "\u0302\u0301"]
    for vectors in (embedder.embed(whole(embedder, texts)), embedder.embed_queries(texts)):
        assert np.isnan(vectors).all(axis=1).tolist() == [True, False, True, False, True]
        assert distances(vectors[[1, 3]], embedder.embed_queries(["fox", "dog"])).max() <= 1e-5
    assert np.isnan(embedder.embed_queries(["\u0301"])).all()
    embedder.close()


def test_a_model_that_runs_otherwise_here_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = packing._joined

    def without_start(sequences: list[NDArray[np.int32]], _: object) -> object:
        nothing = np.empty(0, dtype=np.int32)
        return joined(sequences, SpecialTokens(nothing, nothing, 0))

    monkeypatch.setattr(packing, "_joined", without_start)
    with pytest.raises(UsageError, match="cosine"):
        load_model(settings(tiny, token_budget=4096))


def test_loading_opens_no_connection(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: socket.socket, address: object) -> None:
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    load_embedder(settings(tiny)).close()
    with pytest.raises(UsageError, match="hf download nobody/has-this"):
        load_embedder(settings(Path("nobody/has-this")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "tpu"}, "embedding.device"),
        ({"device": "cpu:1"}, "embedding.device"),
        ({"dtype": "int8"}, "embedding.dtype"),
    ],
)
def test_settings_that_cannot_be_are_refused(tiny: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_embedder(settings(tiny, **change))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_asked_for_where_there_is_none_is_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="finds no CUDA device"):
        load_embedder(settings(tiny, device="cuda"))
