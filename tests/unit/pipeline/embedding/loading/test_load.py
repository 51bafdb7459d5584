"""The engine follows from the machine, the settings and what OpenVINO can run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.embedding import Embedder, EmbeddingSettings, load_embedder, unrelated_similarity
from pipeline.embedding.embedder import whole_texts
from pipeline.embedding.engine.model_embedder import ModelEmbedder
from pipeline.embedding.loading import load, openvino_model
from pipeline.embedding.loading.prepared.folder import PreparedModel
from pipeline.embedding.loading.prepared.manifest import REFERENCE_FILE
from pipeline.embedding.loading.probes import PROBES
from pipeline.errors import UsageError
from tests.unit.pipeline.embedding.loaded_models import prepared_settings, settings
from tests.unit.pipeline.embedding.tiny_models import build


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("bert-mean", tmp_path_factory.mktemp("tiny"))


def loaded(chosen: EmbeddingSettings) -> tuple[str, str, str]:
    embedder: Embedder = load_embedder(chosen)
    found = embedder.engine, embedder.device, embedder.dtype
    embedder.close()
    return found


def test_a_cpu_is_openvinos_unless_another_engine_or_precision_is_chosen(tiny: Path) -> None:
    assert loaded(prepared_settings(tiny)) == ("openvino", "cpu", "float32")
    assert loaded(settings(tiny, engine="auto", device="auto")) == ("openvino", "cpu", "float32")
    assert loaded(settings(tiny, engine="torch")) == ("torch", "cpu", "float32")
    assert loaded(settings(tiny, engine="auto", dtype="float16")) == ("torch", "cpu", "float16")


def test_without_a_gpus_driver_torch_is_not_even_looked_at(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "may_have_gpu", lambda: False)
    monkeypatch.setattr(load, "_resolve", lambda device: pytest.fail(f"torch was imported for {device}"))
    assert loaded(settings(prepared_settings(tiny).model, engine="auto", device="auto"))[0] == "openvino"  # type: ignore[arg-type]


def test_a_driver_without_a_gpu_is_a_cpu(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "may_have_gpu", lambda: True)
    assert loaded(settings(tiny, engine="auto", device="auto"))[0] == "openvino"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "openvino", "dtype": "float16"}, "float16, which OpenVINO does not use"),
        ({"engine": "torch", "dtype": "int8"}, "int8, which only OpenVINO"),
        ({"engine": "openvino", "dimensions": 33}, "33, but the model's vectors have 32"),
        ({"engine": "openvino", "dtype": "int8", "calibration": Path("/no/texts")}, "the texts cannot be read"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tiny: Path, change: dict[str, object], message: str) -> None:
    prepared_settings(tiny)
    with pytest.raises(UsageError, match=message):
        load_embedder(settings(tiny, **change))


def test_queries_first_compiles_nothing_for_documents(tiny: Path) -> None:
    embedder = load_embedder(prepared_settings(tiny), queries_first=True)
    assert isinstance(embedder, ModelEmbedder)
    made = [embedder._queries._runner is not None, embedder._documents._runner is not None]
    assert embedder.embed_queries(["the fox"]).shape == (1, 32)
    assert embedder.execution.layout == "padded"
    assert [*made, embedder._documents._runner is not None] == [True, False, True]
    embedder.close()


def test_the_first_start_measures_unrelated_texts_with_what_embeds_queries(tiny: Path, tmp_path: Path) -> None:
    settings = prepared_settings(tiny)
    embedder = load_embedder(settings, queries_first=True)
    assert isinstance(embedder, ModelEmbedder)
    few = embedder.embed_few(whole_texts(embedder, PROBES))
    assert unrelated_similarity(embedder, replace(settings, cache_folder=tmp_path)) is not None
    assert embedder._documents._runner is None, "a second runner takes 100 MB and seconds to tune"
    documents = embedder.embed(whole_texts(embedder, PROBES))
    assert few == pytest.approx(documents, abs=1e-3)
    embedder.close()


def test_wrong_vectors_are_noticed_at_every_start(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_model, "_reference", _turned)
    with pytest.raises(UsageError, match="gives wrong vectors on this machine"):
        load_embedder(prepared_settings(tiny))


def _turned(model: PreparedModel, *, query: bool) -> NDArray[np.float32]:
    reference: NDArray[np.float32] = np.split(np.load(model.folder / REFERENCE_FILE), 2)[int(query)]
    return reference[:, ::-1]
