"""Cross-encoders prepared for OpenVINO give the logits of transformers, and unfit folders are refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.embedding import EmbeddingSettings, PreparedModels, load_cross_encoder
from pipeline.embedding.engine.cross_encoder import CrossEncoder
from pipeline.embedding.loading.cross_encoder import logits_of
from pipeline.embedding.loading.cross_encoder_files import cross_encoder_request
from pipeline.embedding.loading.prepared.cross_encoder_conversion import convert_cross_encoder
from pipeline.errors import UsageError
from tests.unit.pipeline.embedding.loaded_models import WORDS
from tests.unit.pipeline.embedding.tiny_models import cross_encoder, minilm

QUERY = "which fox jumps"
TEXTS = (
    "a",
    "",
    "the fox",
    "ébène 漢字 the",
    *(" ".join((WORDS * 3)[:length]) for length in (2, 3, 5, 8, 13, 16, 40)),
    " ".join(WORDS * 20),
)


def settings(folder: Path) -> EmbeddingSettings:
    return EmbeddingSettings("none", dtype="float32", threads=2, cache_folder=folder)


def loaded(folder: Path, cache: Path) -> CrossEncoder:
    """The cross-encoder, converted in this process, which has torch already."""
    request = cross_encoder_request(str(folder), folder)
    models = PreparedModels(settings(cache).models_folder)
    if models.find(request) is None:
        with models.making(request) as destination:
            convert_cross_encoder(request, destination)
    return load_cross_encoder(str(folder), settings(cache))


def logits_of_transformers(folder: Path, query: str, texts: tuple[str, ...]) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = tokenizer([query] * len(texts), list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return model(**inputs).logits[:, 0].numpy()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of prepared models."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cross_encoder(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_the_logits_are_those_of_transformers(tmp_path: Path, cache: Path, kind: str) -> None:
    folder = cross_encoder(tmp_path / kind, kind)
    encoder = loaded(folder, cache)
    for query in (QUERY, " ".join(WORDS * 20), ""):
        expected = logits_of_transformers(folder, query, TEXTS)
        assert np.ptp(expected) > 0.1, "so different that a mistake shows"
        assert logits_of(encoder, query, TEXTS) == pytest.approx(expected, abs=2e-3)
    encoder.close()


def test_passes_have_each_text_once_and_end_with_the_caller(bert: Path, cache: Path) -> None:
    encoder = loaded(bert, cache)
    texts = [" ".join(WORDS * 20)] * 100
    passes = [batch.tolist() for batch, _ in encoder.passes(QUERY, texts)]
    assert len(passes) > 1
    assert sorted(index for batch in passes for index in batch) == list(range(100))
    encoder.close()


def test_texts_of_any_characters_have_finite_logits(bert: Path, cache: Path) -> None:
    encoder = loaded(bert, cache)
    hostile = ("\ud800 fox", "\0", "x" * 100_000, "🙂" * 1000, "[SEP] [CLS] [PAD]", "\u202efox")
    assert np.isfinite(logits_of(encoder, "\udfff?", hostile)).all()
    encoder.close()


def test_the_first_load_converts_and_the_next_imports_no_torch(bert: Path, tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from pipeline.embedding import EmbeddingSettings, load_cross_encoder
load_cross_encoder(sys.argv[1], EmbeddingSettings("none", dtype="float32", threads=1, cache_folder=Path(sys.argv[2])))
assert "torch" not in sys.modules
assert "transformers" not in sys.modules
"""
    command = [sys.executable, "-c", program, str(bert), str(tmp_path)]
    for _ in range(2):
        subprocess.run(command, check=True, timeout=240)
    (prepared,) = PreparedModels(tmp_path / "models").all()
    assert (prepared.manifest.kind, prepared.manifest.token_types) == ("cross-encoder", True)


def changed(folder: Path, copy: Path, **config: object) -> Path:
    shutil.copytree(folder, copy)
    path = copy / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return copy


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "code of its own"),
        ({"architectures": ["BertModel"]}, "no cross-encoder"),
        ({"architectures": None}, "no cross-encoder"),
        ({"architectures": 5}, "no cross-encoder"),
        ({"id2label": 5}, "2 labels"),
        ({"id2label": {"0": "no", "1": "yes"}}, "2 labels"),
    ],
)
def test_what_is_no_cross_encoder_or_has_code_is_refused(
    bert: Path, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        cross_encoder_request("m", changed(bert, tmp_path / "copy", **config))


@pytest.mark.parametrize("content", ["[]", "null", "5", "{"])
def test_settings_that_are_no_object_are_refused(bert: Path, tmp_path: Path, content: str) -> None:
    copy = changed(bert, tmp_path / "copy")
    (copy / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"config\.json"):
        cross_encoder_request("m", copy)


def test_pickled_weights_are_refused(bert: Path, tmp_path: Path) -> None:
    copy = changed(bert, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UsageError, match="safetensors"):
        cross_encoder_request("m", copy)


def test_a_model_without_its_head_is_refused(tmp_path: Path) -> None:
    folder = changed(minilm(), tmp_path / "copy", architectures=["BertForSequenceClassification"], num_labels=1)
    with pytest.raises(UsageError, match="not whole"):
        loaded(folder, tmp_path)


def test_a_name_that_is_not_here_says_which_setting() -> None:
    with pytest.raises(UsageError, match=r"query\.rerank\.model"):
        load_cross_encoder("/no/such/folder", EmbeddingSettings("none"))
