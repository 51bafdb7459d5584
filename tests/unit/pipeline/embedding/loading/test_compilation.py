"""A compiled model gives the same vectors, and is compiled when it is loaded or not at all."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from pipeline.embedding.loading.model import load_model
from pipeline.errors import UsageError
from tests.unit.pipeline.embedding.loaded_models import TEXTS, distances, settings, whole
from tests.unit.pipeline.embedding.tiny_models import build


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch compiles with a C++ compiler, which is not here")
@pytest.mark.parametrize(("kind", "layout"), [("gte-modernbert", "flat"), ("mpnet", "padded")])
def test_a_compiled_model_gives_the_same_vectors(kind: str, layout: str, tmp_path: Path) -> None:
    folder = build(kind, tmp_path)
    recursion = sys.getrecursionlimit()
    plain, compiled = load_model(settings(folder)), load_model(settings(folder, compile=True))
    assert compiled.execution.layout == layout
    graphs = counters["stats"]["unique_graphs"]
    for texts in (TEXTS, TEXTS[-1:], TEXTS[:2]):
        chunks = whole(plain, texts)
        assert distances(compiled.embed(chunks), plain.embed(chunks)).max() <= 1e-5
        assert distances(compiled.embed_queries(texts), plain.embed_queries(texts)).max() <= 1e-5
    assert (counters["stats"]["unique_graphs"], dict(counters["graph_break"])) == (max(graphs, 1), {})
    assert sys.getrecursionlimit() == recursion
    compiled.close()
    plain.close()


def test_without_a_compiler_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    threads = torch.get_num_threads()
    with pytest.raises(UsageError, match=r"embedding.compile is true, but .* install a C\+\+ compiler"):
        load_model(settings(build("bert-mean", tmp_path), compile=True))
    assert torch.get_num_threads() == threads
