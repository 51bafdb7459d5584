"""Cores and GPUs by what the machine has."""

import os
from pathlib import Path

import pytest

from pipeline.embedding.kernels import processor


def test_there_is_a_core_and_no_more_than_the_machine_has() -> None:
    assert 1 <= processor.available_cpus() <= (os.cpu_count() or 1)


def test_a_processor_has_a_name() -> None:
    assert processor.cpu_name()


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_is_near_where_its_driver_is(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "nvidiactl"
    if there:
        driver.touch()
    monkeypatch.setattr(processor, "_GPU_FILES", (str(tmp_path / "kfd"), str(driver)))
    assert processor.may_have_gpu() is there
