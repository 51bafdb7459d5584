"""A model is converted by a process of its own, once, and every way in which that fails has a message."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.embedding import EmbeddingSettings, load_embedder, prepared_model
from pipeline.embedding.loading.prepared import prepare
from pipeline.embedding.loading.prepared.folder import Refused, Request, write_refusal
from pipeline.embedding.loading.prepared.manifest import WEIGHTS_FILE
from pipeline.errors import MilvusStreamError, UsageError
from tests.unit.pipeline.embedding.loaded_models import TEXTS, distances, prepared_settings, settings
from tests.unit.pipeline.embedding.tiny_models import build

LIGHT = """
import sys
from pathlib import Path
from pipeline.embedding import EmbeddingSettings, load_embedder
chosen = EmbeddingSettings(sys.argv[1], engine="openvino", cache_folder=Path(sys.argv[2]), dtype="float32", threads=1)
embedder = load_embedder(chosen, queries_first=True)
assert embedder.embed_queries(["the quick brown fox"]).shape == (1, 32)
print(sorted({"torch", "transformers", "sentence_transformers", "scipy"} & sys.modules.keys()))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("bert-mean", tmp_path_factory.mktemp("tiny"))


def chosen(folder: Path, cache: Path) -> EmbeddingSettings:
    return settings(folder, engine="openvino", cache_folder=cache)


def test_a_process_prepares_it_and_the_next_start_needs_no_torch(tiny: Path, tmp_path: Path) -> None:
    prepared = prepared_model(chosen(tiny, tmp_path))
    torch, openvino = load_embedder(settings(tiny)), load_embedder(chosen(tiny, tmp_path))
    assert distances(openvino.embed_queries(TEXTS), torch.embed_queries(TEXTS)).max() <= 1e-5
    assert openvino.stamp == torch.stamp
    torch.close()
    openvino.close()
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(tiny), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["[]"]), done.stderr
    # A machine that has only what was prepared finds it by the name.
    moved = tiny.with_name("moved")
    tiny.rename(moved)
    try:
        assert prepared_model(chosen(tiny, tmp_path)).folder == prepared.folder
    finally:
        moved.rename(tiny)


def conversion(monkeypatch: pytest.MonkeyPatch, does: Callable[[Path], object]) -> list[str]:
    """Let a function take the place of the process; returns the folders that it was given."""
    calls: list[str] = []

    def convert(request: Request) -> None:
        calls.append(request.destination)
        does(Path(request.destination))

    monkeypatch.setattr(prepare, "_convert", convert)
    return calls


def copy_of(folder: Path) -> Callable[[Path], object]:
    return lambda destination: shutil.copytree(folder, destination, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def converted(tiny: Path) -> Path:
    return prepared_model(prepared_settings(tiny)).folder


def test_two_starts_at_a_time_convert_once(
    tiny: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = conversion(monkeypatch, copy_of(converted))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(prepared_model(chosen(tiny, tmp_path)).folder)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(found) == 3
    assert len(set(found)) == 1


def test_a_damaged_model_is_prepared_again(
    tiny: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = conversion(monkeypatch, copy_of(converted))
    model = prepared_model(chosen(tiny, tmp_path))
    whole = (model.folder / WEIGHTS_FILE).read_bytes()
    (model.folder / WEIGHTS_FILE).write_bytes(whole[: len(whole) // 2])
    again = prepared_model(chosen(tiny, tmp_path))
    assert len(calls) == 2
    assert (again.folder / WEIGHTS_FILE).read_bytes() == whole


def test_a_model_that_cannot_be_converted_is_run_by_torch_and_not_tried_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = conversion(monkeypatch, lambda destination: write_refusal(destination, "operator unknown"))
    for _ in range(2):
        with pytest.raises(Refused, match="operator unknown"):
            prepared_model(chosen(tiny, tmp_path))
    assert len(calls) == 1
    with pytest.raises(UsageError, match=r"OpenVINO cannot run .*operator unknown"):
        load_embedder(chosen(tiny, tmp_path))
    embedder = load_embedder(settings(tiny, engine="auto", cache_folder=tmp_path))
    assert embedder.engine == "torch"
    assert np.isfinite(embedder.embed_queries(["fox"])).all()
    assert "model.not_prepared" in capsys.readouterr().out
    embedder.close()


def test_a_conversion_that_fails_leaves_nothing_and_is_tried_again(
    tiny: Path, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise MilvusStreamError("ended with status -9")

    conversion(monkeypatch, fail)
    with pytest.raises(MilvusStreamError, match="status -9"):
        prepared_model(chosen(tiny, tmp_path))
    assert [path.name for path in (tmp_path / "models").iterdir() if path.is_dir()] == []
    conversion(monkeypatch, copy_of(converted))
    assert prepared_model(chosen(tiny, tmp_path)).folder.is_dir()


def test_what_the_process_says_is_in_the_message(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\necho 'cannot import torch' >&2\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(MilvusStreamError, match="ended with status 3: cannot import torch"):
        prepared_model(chosen(tiny, tmp_path / "cache"))


def test_a_folder_without_space_is_named_before_anything_is_converted(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = conversion(monkeypatch, lambda _: None)
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match=r"embedding.cache_folder: .*10 MiB are free, and preparing takes up to \d+"):
        prepared_model(chosen(tiny, tmp_path))
    assert calls == []
