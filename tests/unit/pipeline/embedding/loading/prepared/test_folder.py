"""A prepared model is there whole or not at all, and what is not the one that was written is noticed."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.embedding.loading.prepared import folder as folder_module
from pipeline.embedding.loading.prepared.folder import PreparedModels, Refused, Request, write_refusal
from pipeline.embedding.loading.prepared.manifest import (
    MODEL_FILE,
    REFERENCE_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    Manifest,
    file_digests,
    write_manifest,
)
from pipeline.errors import UsageError
from tests.support.waiting import eventually

REQUEST = Request("org/model", "/models/model", digest="d1", source="s1", precision="float")
OPENVINO = "2026.4.0"


@pytest.fixture(autouse=True)
def one_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "version", lambda _: OPENVINO)


def fill(place: Path, request: Request, openvino: str = OPENVINO) -> None:
    for name in (MODEL_FILE, WEIGHTS_FILE, TOKENIZER_FILE, REFERENCE_FILE):
        (place / name).write_bytes(name.encode())
    manifest = Manifest(
        name=request.name, digest=request.digest, precision=request.precision, dimension=4, pooling="mean",
        max_tokens=16, padding_id=0, document_prompt="", query_prompt="", masks_prompt=False, unit_length=True,
        truncated=False, versions={"openvino": openvino}, files=file_digests(place),
    )  # fmt: skip
    write_manifest(place, manifest)


def add(models: PreparedModels, request: Request, openvino: str = OPENVINO) -> None:
    with models.making(request) as place:
        fill(place, request, openvino)


def test_what_was_prepared_is_found(tmp_path: Path) -> None:
    models = PreparedModels(tmp_path / "models")
    assert models.find(REQUEST) is None
    add(models, REQUEST)
    found = models.find(REQUEST)
    assert found is not None
    assert (found.manifest.name, found.folder.name) == ("org/model", REQUEST.key)
    assert found.folder.name.startswith("model-float-")
    assert [one.folder for one in models.all()] == [found.folder]


@pytest.mark.parametrize(
    "change", [{"digest": "d2"}, {"source": "s2"}, {"precision": "int8"}], ids=["weights", "settings", "precision"]
)
def test_another_model_is_not_found_in_its_place(change: dict[str, str], tmp_path: Path) -> None:
    models = PreparedModels(tmp_path)
    add(models, REQUEST)
    other = replace(REQUEST, **change)  # type: ignore[arg-type]
    assert models.find(other) is None
    # Nor if somebody has put it there.
    (tmp_path / REQUEST.key).rename(tmp_path / other.key)
    if "source" not in change:
        assert models.find(other) is None


def test_another_version_of_openvino_prepares_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = PreparedModels(tmp_path)
    add(models, REQUEST)
    monkeypatch.setattr(folder_module, "version", lambda _: "2027.1.0")
    assert models.find(REQUEST) is None
    (model,) = models.all()
    assert not models.usable(model)


@pytest.mark.parametrize("name", [MODEL_FILE, WEIGHTS_FILE, TOKENIZER_FILE, REFERENCE_FILE])
def test_a_file_that_changed_or_is_missing_is_noticed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = PreparedModels(tmp_path)
    add(models, REQUEST)
    path = tmp_path / REQUEST.key / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert models.find(REQUEST) is None
    path.unlink()
    assert models.find(REQUEST) is None
    assert capsys.readouterr().out.count("model.damaged") == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": 3}'])
def test_a_manifest_that_cannot_be_read_is_noticed(content: str, tmp_path: Path) -> None:
    models = PreparedModels(tmp_path)
    add(models, REQUEST)
    (tmp_path / REQUEST.key / "manifest.json").write_text(content)
    assert models.find(REQUEST) is None
    assert models.all() == []


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    models = PreparedModels(tmp_path)

    def break_off() -> None:
        with models.making(REQUEST) as place:
            fill(place, REQUEST)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_prepared_again_replaces_the_damaged_one(tmp_path: Path) -> None:
    models = PreparedModels(tmp_path)
    add(models, REQUEST)
    (tmp_path / REQUEST.key / WEIGHTS_FILE).write_bytes(b"")
    add(models, REQUEST)
    assert models.find(REQUEST) is not None


def test_that_it_cannot_be_prepared_is_remembered(tmp_path: Path) -> None:
    models = PreparedModels(tmp_path)
    with models.making(REQUEST) as place:
        write_refusal(place, "operator unknown")
    with pytest.raises(Refused, match="operator unknown"):
        models.find(REQUEST)
    assert models.find(replace(REQUEST, source="s2")) is None
    assert models.all() == []


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    models = PreparedModels(tmp_path / "file" / "models")
    with pytest.raises(UsageError, match=r"embedding.cache_folder: .*file/models.*model prepare"):
        add(models, REQUEST)


def test_a_second_process_waits_for_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models, order = PreparedModels(tmp_path), []

    def second() -> None:
        with models.locked(REQUEST):
            order.append("second")

    thread = threading.Thread(target=second)
    with models.locked(REQUEST):
        thread.start()
        seen = ""

        def waits() -> bool:
            nonlocal seen
            seen += capsys.readouterr().out
            return "model.waiting" in seen

        eventually(waits)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_name_finds_the_model_where_its_own_files_are_missing(tmp_path: Path) -> None:
    models = PreparedModels(tmp_path)
    add(models, REQUEST)
    add(models, replace(REQUEST, source="old"), openvino="2025.1.0")
    found = models.named("org/model", "float")
    assert found is not None
    assert found.folder.name == REQUEST.key
    assert models.named("org/model", "int8") is None
    assert models.named("model", "float") is None
    (found.folder / WEIGHTS_FILE).write_bytes(b"")
    assert models.named("org/model", "float") is None


def test_a_name_of_two_models_is_refused(tmp_path: Path) -> None:
    models = PreparedModels(tmp_path)
    add(models, REQUEST)
    add(models, replace(REQUEST, digest="d2"))
    with pytest.raises(UsageError, match="2 prepared models of that name"):
        models.named("org/model", "float")


def test_a_removed_model_is_gone(tmp_path: Path) -> None:
    models = PreparedModels(tmp_path)
    add(models, REQUEST)
    (model,) = models.all()
    assert model.size > json.dumps(model.manifest.files).count("")  # manifest and files
    models.remove(model)
    assert models.find(REQUEST) is None
