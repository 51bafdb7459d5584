"""How many workers, on which GPUs, with how many cores."""

from pathlib import Path

import pytest

from consumers.config import Settings, load_settings
from consumers.supervisor.placement import count_gpus, own_settings, parse_workers, share_of, worker_count
from pipeline.errors import UsageError


def settings(*sets: str) -> Settings:
    return load_settings(None, {}, sets)


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 3),
        ("", 0),
        ("-1", 0),
        ("0", 1),
        ("2, 0", 2),
        ("0,-1,1", 1),
        ("1,7", 1),
        ("GPU-8932f937,GPU-b2aaa8d3", 2),
        ("MIG-1,0", 2),
        ("none", 0),
    ],
)
def test_gpus_are_device_files_that_cuda_shows(tmp_path: Path, visible: str | None, count: int) -> None:
    names = ("nvidia0", "nvidia1", "nvidia12", "nvidiactl", "nvidia-uvm", "nvidia-caps", "xnvidia3")
    for name in names:
        (tmp_path / name).touch()
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert count_gpus(environment, tmp_path) == count


def test_without_device_files_there_is_no_gpu(tmp_path: Path) -> None:
    assert count_gpus({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path) == 0
    assert count_gpus({}, tmp_path / "missing") == 0


def test_auto_is_a_worker_for_each_gpu_that_is_left_open() -> None:
    assert worker_count("auto", settings(), 4) == 4
    assert worker_count("auto", settings(), 0) == 1
    assert worker_count("auto", settings("embedding.device=cuda"), 4) == 4
    assert worker_count("auto", settings("embedding.device=cuda:1"), 4) == 1
    assert worker_count("auto", settings("embedding.device=cpu"), 4) == 1
    assert worker_count(3, settings(), 4) == 3


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "", "257", "\u0663"])
def test_a_number_of_workers_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--workers"):
        parse_workers(text)
    assert (parse_workers("4"), parse_workers("auto")) == (4, "auto")


def test_gpus_are_handed_out_in_turn_where_the_device_is_open() -> None:
    assert [own_settings(settings(), n, 3, 2) for n in range(3)] == [
        ["embedding.device=cuda:0"],
        ["embedding.device=cuda:1"],
        ["embedding.device=cuda:0"],
    ]
    assert own_settings(settings("embedding.device=cuda"), 1, 2, 2) == ["embedding.device=cuda:1"]
    assert own_settings(settings("embedding.device=cuda:1"), 0, 2, 2) == []
    assert own_settings(settings(), 1, 2, 0) == []


def test_each_worker_is_a_static_member_of_its_own() -> None:
    static = settings("kafka.group_instance_id=host-7")
    assert own_settings(static, 1, 2, 0) == ["kafka.group_instance_id=host-7-1"]
    assert own_settings(static, 0, 1, 0) == []


def test_cores_are_shared() -> None:
    assert [share_of(16, 3), share_of(2, 4), share_of(8, 1)] == [5, 1, 8]
