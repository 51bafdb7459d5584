"""A measured plan is cached for its circumstances, and a file that is not one is ignored."""

import json
from pathlib import Path

import pytest

from pipeline.embedding.engine.batch_runner import BatchPlan
from pipeline.embedding.loading.tuning_cache import TuningCache

CIRCUMSTANCES: dict[str, str | int] = {"weights": "abc", "device": "some processor", "cores": 4}


def test_a_plan_is_cached_for_its_circumstances_only(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    TuningCache(folder, CIRCUMSTANCES).write(BatchPlan(2048, 2, 1))
    assert TuningCache(folder, CIRCUMSTANCES).read() == BatchPlan(2048, 2, 1)
    assert TuningCache(folder, CIRCUMSTANCES | {"cores": 8}).read() is None
    (file,) = folder.iterdir()
    assert [path.stat().st_mode & 0o777 for path in (folder, file)] == [0o700, 0o600]
    assert len(list(folder.iterdir())) == 1  # nothing half-written is left


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"plan": {}}',
        json.dumps(
            {"plan": {"token_budget": 1, "workers": 1, "threads": 1}, "measured_for": {"weights": "x"}}
        ).encode(),
        json.dumps({"plan": {"token_budget": -5, "workers": 1, "threads": 1}, "measured_for": CIRCUMSTANCES}).encode(),
        json.dumps({"plan": {"token_budget": "9", "workers": 1, "threads": 1}, "measured_for": CIRCUMSTANCES}).encode(),
        json.dumps({"plan": {"tokens": 9}, "measured_for": CIRCUMSTANCES}).encode(),
    ],
)
def test_a_file_with_other_content_is_ignored_and_replaced(tmp_path: Path, content: bytes) -> None:
    cache = TuningCache(tmp_path, CIRCUMSTANCES)
    cache.write(BatchPlan(2048))
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    assert cache.read() is None
    cache.write(BatchPlan(512))
    assert cache.read() == BatchPlan(512)


def test_a_folder_that_cannot_be_written_to_is_only_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    cache = TuningCache(tmp_path / "file" / "folder", CIRCUMSTANCES)
    cache.write(BatchPlan(2048))
    assert "tuning.not_remembered" in capsys.readouterr().out
    assert cache.read() is None
