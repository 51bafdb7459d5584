"""Cores of a container's CPU request, and where they count."""

from pathlib import Path

import pytest

from pipeline.embedding.kernels import processor
from pipeline.embedding.kernels.cpu_request import VARIABLE, requested_cpus
from pipeline.errors import UsageError


@pytest.mark.parametrize(
    ("text", "cores"),
    [("2", 2), ("1500m", 2), ("1000m", 1), ("100m", 1), ("0.5", 1), ("2.5", 3), (" 4 ", 4), ("", None), ("0", None)],
)
def test_a_request_is_rounded_up(text: str, cores: int | None) -> None:
    assert requested_cpus({VARIABLE: text}) == cores


def test_without_the_variable_there_is_no_request() -> None:
    assert requested_cpus({}) is None


@pytest.mark.parametrize("text", ["two", "-1", "1e3", "2k", "1 500m", "nan", "\u0662"])
def test_another_value_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=VARIABLE):
        requested_cpus({VARIABLE: text})


@pytest.mark.parametrize(
    ("quota", "request_", "cores"),
    [
        ("max 100000", "2", 2),
        ("300000 100000", "2", 3),
        ("max 100000", "", 8),
        (None, "1500m", 2),
        ("max 100000", "64", 8),
    ],
)
def test_a_quota_counts_before_the_request_and_both_before_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str | None, request_: str, cores: int
) -> None:
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda _: set(range(8)))  # type: ignore[attr-defined]
    monkeypatch.setattr(processor, "Path", lambda _: tmp_path / "cpu.max")
    monkeypatch.setenv(VARIABLE, request_)
    assert processor.available_cpus() == cores
