"""`milvus-stream bench embed`: figures as measured."""

import json
from pathlib import Path

import pytest

from consumers.cli.embed import bench
from consumers.config import Settings
from pipeline.errors import UsageError
from tests.unit.pipeline.embedding.tiny_models import build

SETTINGS = Settings.model_validate({"embedding": {"model": "hash:6"}, "telemetry": {"log_level": "error"}})


def test_a_share_is_taken_within_its_round() -> None:
    """Where the machine is busy in one round, both its rate and its peak are lower."""
    rounds = [
        bench.Round(100, 120, 9000, flops, chunk_s=0.5, embed_s=2.0, cpu_s=4.0, peak=peak)
        for flops, peak in ((1e9, 1e9), (2e9, 1e9), (1e9, 5e8))
    ]
    found = bench.summarize(rounds)
    assert found["share_of_peak"] == 1.0
    assert (found["tokens_per_s"], found["documents_per_s"], found["chunks_per_s"]) == (4500, 50, 60)
    assert (found["tokens_per_document"], found["tokenizing_documents_per_s"]) == (90, 200)
    assert found["cpu_s_per_1000_documents"] == 40


@pytest.mark.parametrize(
    ("model", "tokenizing", "said"),
    [(50.0, 200.0, "the model; tokenizing could feed 4.0"), (900.0, 400.0, "tokenizing; 3 ingest workers")],
)
def test_it_is_said_what_a_worker_waits_for(model: float, tokenizing: float, said: str) -> None:
    assert bench._limit(model, tokenizing).startswith(said)


def test_measuring_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = build("bert-mean", tmp_path)
    settings = Settings.model_validate({"embedding": {"model": str(folder), "dtype": "float32", "device": "cpu"}})
    found = bench.measure(settings, 2.0)
    assert (found["device"], found["dtype"], found["dimension"]) == ("cpu", "float32", 32)
    assert 0 < found["share_of_peak"] < 1
    assert found["memory_peak_bytes"] >= found["memory_loaded_bytes"] > 0
    assert found["tokens_per_s"] > found["documents_per_s"] > 0
    assert json.loads(json.dumps(found)) == found
    bench.show(found)
    assert f"{found['tokens_per_s']:,.0f}" in capsys.readouterr().out


def test_without_a_model_there_is_nothing_to_measure() -> None:
    with pytest.raises(UsageError, match="hash:6"):
        bench.measure(SETTINGS, 3.0)
