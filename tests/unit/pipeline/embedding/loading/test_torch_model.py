"""What loading makes of a model's files and of the settings: the stamp, the limits, the refusals."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from pipeline.embedding import load_embedder
from pipeline.embedding.engine import batching
from pipeline.embedding.engine.batching import SpecialTokens
from pipeline.errors import UsageError
from tests.unit.pipeline.embedding.loaded_models import TEXTS, WORDS, cosines, distances, settings, whole
from tests.unit.pipeline.embedding.tiny_models import HIDDEN, build, minilm


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
    if kind != "gte-modernbert":  # which does not normalise
        norms = np.linalg.norm(expected, axis=1, keepdims=True)
        assert norms.max() < 0.99
        expected = expected / norms
    actual = first.embed_queries(TEXTS)
    assert actual.shape == (len(TEXTS), 8)
    assert distances(actual, expected).max() <= 1e-5
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


def test_a_model_whose_vectors_differ_here_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_special_tokens = batching._with_special_tokens

    def without_special_tokens(sequences: list[NDArray[np.int32]], _: object) -> object:
        nothing = np.empty(0, dtype=np.int32)
        return with_special_tokens(sequences, SpecialTokens(nothing, nothing, 0))

    monkeypatch.setattr(batching, "_with_special_tokens", without_special_tokens)
    with pytest.raises(UsageError, match="cosine"):
        load_embedder(settings(tiny, token_budget=4096))


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
def test_invalid_settings_are_refused(tiny: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_embedder(settings(tiny, **change))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_on_a_machine_without_it_is_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="finds no CUDA device"):
        load_embedder(settings(tiny, device="cuda"))
