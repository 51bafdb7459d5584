"""Packed weights give the vectors of the model's own, or are not used."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu, linear
from transformers import BertConfig, BertModel

from pipeline.embedding.kernels.packed_weights import PackedLinear, pack_weights
from pipeline.embedding.loading import model as loading
from pipeline.embedding.loading.model import load_model
from tests.unit.pipeline.embedding.bare_models import FLAT, fast_path_log, forward_of, mpnet, vectors
from tests.unit.pipeline.embedding.loaded_models import TEXTS, distances, settings, whole
from tests.unit.pipeline.embedding.tiny_models import build


def linears(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear)]


@pytest.mark.parametrize("kind", [*sorted(FLAT), "mpnet"])
def test_every_kind_of_model_gives_the_same_vectors(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    def build_forward() -> Any:
        if kind == "mpnet":
            return mpnet()
        make, pooling = FLAT[kind]
        return forward_of(make(), pooling)

    plain, forward = build_forward(), build_forward()
    assert "model.unpacked" not in fast_path_log(forward, capsys, pack=True)
    assert forward.packed
    assert linears(forward._transformer) == []
    lengths = [50, 31, 16, 3, 1]
    expected, actual = vectors(plain, lengths), vectors(forward, lengths)
    assert np.abs(actual - expected).max() <= 2e-5 * np.linalg.norm(expected, axis=1).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 24), (40, 24), (2, 5, 24), (0, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_is_the_layer(dtype: torch.dtype, shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(1)
    layer = torch.nn.Linear(24, 40, bias=bias).to(dtype)
    rows = torch.randn(shape).to(dtype)
    exact = linear(rows.double(), layer.weight.double(), layer.bias.double() if bias else None)
    off = 1e-6 if dtype == torch.float32 else 0.005
    with torch.inference_mode():
        for packed, expected in ((PackedLinear(layer), exact), (PackedLinear(layer, gelu=True), gelu(exact))):
            actual = packed(rows)
            assert (actual.shape, actual.dtype) == (expected.shape, dtype)
            assert (actual - expected).norm() <= off * expected.norm()


@pytest.mark.parametrize(("activation", "part_of_the_product"), [("gelu", True), ("gelu_new", False), ("relu", False)])
def test_only_the_exact_gelu_becomes_part_of_a_product(activation: str, part_of_the_product: bool) -> None:
    shape: Any = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    model: Any = BertModel(BertConfig(vocab_size=50, hidden_act=activation, **shape)).eval()  # type: ignore[no-untyped-call]
    ids = torch.arange(20)[None]
    expected = model(input_ids=ids).last_hidden_state
    pack_weights(model)
    assert isinstance(model.encoder.layer[0].intermediate.intermediate_act_fn, torch.nn.Identity) == part_of_the_product
    assert (model(input_ids=ids).last_hidden_state - expected).abs().max() <= 1e-5


def reads_weights(inner: Callable[..., Any]) -> Callable[..., Any]:
    """A layer that does not call the layers in it, but multiplies with their weights, as DeBERTa does."""

    def forward(self: Any, *args: Any, **options: Any) -> Any:
        linear(torch.ones(1, self.query.weight.shape[1]), self.query.weight)
        return inner(self, *args, **options)

    return forward


def test_a_model_that_reads_its_weights_itself_keeps_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, pooling = FLAT["bert"]
    model = make()
    attention = type(model.encoder.layer[0].attention.self)
    monkeypatch.setattr(attention, "forward", reads_weights(attention.forward))
    forward = forward_of(model, pooling)
    count, before = len(linears(model)), vectors(forward, [4, 9])
    assert "model.unpacked" in fast_path_log(forward, capsys, pack=True)
    assert (forward.flat, forward.packed, len(linears(model))) == (True, False, count)
    assert np.allclose(vectors(forward, [4, 9]), before, rtol=0, atol=1e-4)


def test_a_product_that_is_wrong_is_noticed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = PackedLinear.forward
    monkeypatch.setattr(PackedLinear, "forward", lambda self, rows: right(self, rows) * 1.01)
    make, pooling = FLAT["bert"]
    forward = forward_of(make(), pooling)
    assert "vectors differ" in fast_path_log(forward, capsys, pack=True)
    assert not forward.packed


@pytest.mark.parametrize("failing", [0, 5])
def test_a_torch_that_cannot_pack_leaves_the_model_as_it_is(failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`failing`: layers packed before one cannot be."""
    model = FLAT["bert"][0]()
    before = dict(model.named_modules())
    layers: list[Any] = []

    def packed(layer: torch.nn.Linear, **options: Any) -> PackedLinear:
        layers.append(layer)
        if len(layers) > failing:
            raise RuntimeError("no such operator")
        return PackedLinear(layer, **options)

    monkeypatch.setattr("pipeline.embedding.kernels.packed_weights.PackedLinear", packed)
    with pytest.raises(RuntimeError, match="no such operator"):
        pack_weights(model)
    assert dict(model.named_modules()) == before


@pytest.mark.parametrize("kind", ["bert-mean", "gte-modernbert", "mpnet"])
def test_weights_are_packed_where_onednn_multiplies(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = build(kind, tmp_path)
    packed, vectors_of_each = [], []
    for by_onednn in (False, True):
        monkeypatch.setattr(loading, "uses_onednn", lambda _, answer=by_onednn: answer)
        embedder = load_model(settings(folder))
        packed.append("packed=True" in capsys.readouterr().out.replace('"packed": true', "packed=True"))
        vectors_of_each.append(embedder.embed(whole(embedder, TEXTS)))
        embedder.close()
    assert packed == [False, True]
    assert distances(*vectors_of_each).max() <= 1e-5
