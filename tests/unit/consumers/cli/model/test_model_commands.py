"""`milvus-stream model`: prepare once, list, remove."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from consumers.cli.app import app
from pipeline.errors import NotFound, UsageError
from tests.unit.pipeline.embedding.loaded_models import prepared_settings
from tests.unit.pipeline.embedding.tiny_models import build


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("bert-mean", tmp_path_factory.mktemp("tiny"))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["model", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def cache(tmp_path: Path) -> list[str]:
    return ["--set", f"embedding.cache_folder={tmp_path}", "--set", "telemetry.log_level=error"]


def test_prepare_list_remove(tiny: Path, tmp_path: Path) -> None:
    prepared_settings(tiny, cache_folder=tmp_path)
    made = json.loads(run("prepare", "--model", str(tiny), "--json", *cache(tmp_path)))
    assert (made["model"], made["precision"], made["dimension"], made["usable"]) == (str(tiny), "float", 32, True)
    assert Path(made["folder"]).is_dir()
    assert len([*(tmp_path / "similarity").glob("*.json")]) == 1, "no query worker measures it again"
    assert "is prepared in" in run("prepare", "--model", str(tiny), *cache(tmp_path))
    assert json.loads(run("list", "--json", *cache(tmp_path))) == [made]
    assert made["id"] in run("list", *cache(tmp_path))
    assert made["id"] in run("remove", made["id"], *cache(tmp_path))
    assert json.loads(run("list", "--json", *cache(tmp_path))) == []
    assert "no model is prepared here" in run("list", *cache(tmp_path))


def test_what_is_not_there_is_not_removed(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no model 'other' is prepared"):
        run("remove", "other", *cache(tmp_path))


def test_a_model_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no folder '\./nowhere'"):
        run("prepare", "--model", "./nowhere", *cache(tmp_path))


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"embedding\.dtype"):
        run("prepare", "--dtype", "int4", *cache(tmp_path))
