"""`milvus-stream bench embed --quality`: rankings and their figures."""

import json
from pathlib import Path

import numpy as np
import pytest

from consumers.cli.embed import quality
from consumers.cli.embed.app import bench_embed
from consumers.cli.embed.pairs import LabelledPairs
from consumers.config import Settings
from pipeline.errors import UsageError
from tests.unit.pipeline.embedding.tiny_models import build

PAIRS = LabelledPairs("here", ["what the model reads"], [f"the model reads {number}" for number in range(12)], [{0, 1}])


def test_a_text_is_as_near_as_its_nearest_chunk() -> None:
    chunks = np.array([[0, 1], [1, 0], [0.8, 0.6], [0.6, 0.8]], dtype=np.float32)
    queries = np.array([[1, 0], [0, 1]], dtype=np.float32)
    assert quality.rank(queries, chunks, [2, 1, 1]).tolist() == [[0, 1, 2], [0, 2, 1]]
    assert quality.rank(queries, chunks, [1, 2, 1]).tolist() == [[1, 2, 0], [0, 2, 1]]


def test_many_queries_are_ranked_in_blocks_of_equal_results() -> None:
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(600, 4)).astype(np.float32)
    chunks = rng.normal(size=(30, 4)).astype(np.float32)
    expected = np.argsort(-(queries @ chunks.T), axis=1)[:, : quality.DEPTH]
    assert quality.rank(queries, chunks, [1] * 30).tolist() == expected.tolist()


def test_recall_and_ndcg_by_hand() -> None:
    ranking = np.array([[3, 1, 0], [2, 0, 1]])
    relevant = [{1, 9}, {2}]
    assert [quality.recall(ranking, relevant, depth) for depth in (1, 2)] == [0.5, 0.75]
    ideal = 1 + 1 / np.log2(3)
    assert quality.ndcg(ranking, relevant) == pytest.approx((1 / np.log2(3) / ideal + 1) / 2)


def test_a_model_in_float32_loses_nothing_to_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedding = {"model": str(build("bert-mean", tmp_path)), "device": "cpu", "engine": "torch"}
    figures = quality.measure(Settings.model_validate({"embedding": embedding}), PAIRS)
    first = figures["precisions"][0]
    assert (first["dtype"], first["neighbours_kept"]) == ("float32", 1.0)
    assert first["cosine_least"] == pytest.approx(1)
    assert "only OpenVINO" in figures["without_int8"]
    assert json.loads(json.dumps(figures)) == figures
    quality.show(figures)
    output = capsys.readouterr().out
    assert "nDCG@10" in output
    assert "int8 is not measured" in output


def test_too_few_texts_say_nothing() -> None:
    pairs = LabelledPairs("few.jsonl", ["q"], ["t"], [{0}])
    settings = Settings.model_validate({"embedding": {"model": "no-such-model"}})
    with pytest.raises(UsageError, match=r"few.jsonl has 1 different texts: more than 10 are needed"):
        quality.measure(settings, pairs)


def test_without_a_model_there_is_nothing_to_compare() -> None:
    with pytest.raises(UsageError, match="hash:6"):
        quality.measure(Settings.model_validate({"embedding": {"model": "hash:6"}}), PAIRS)


def test_a_file_is_read_with_quality_only_and_every_precision_is_compared(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="with --quality only"):
        bench_embed(tmp_path / "pairs.jsonl")
    with pytest.raises(UsageError, match="leave --dtype out"):
        bench_embed(quality=True, dtype="int8")
