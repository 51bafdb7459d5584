"""The arithmetic of `make bench-embed`, and what its table says."""

import json
from collections.abc import Mapping
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pipeline.embedding import HashEmbedder
from tests.bench import hash_drain
from tests.bench.embedding import gpu, memory, quality, queries, speed, texts
from tests.bench.embedding.rows import Row, show
from tests.bench.embedding.speed import ALL, COMPILED, ENGINE, ENGINE_FP32, ONE, TUNED, UNTOUCHED, Leg

PROFILE = {"profile": {"addmm": 0.7, "gelu": 0.1}, "tokenize_cpu_s": 1.0, "cpu_s": 50.0}

LOAD_S = {ENGINE: 4.0, COMPILED: 25.0}


def leg(mode: str, kind: str, dtype: str = "float32", **rates: list[float]) -> Leg:
    names = {"untouched": UNTOUCHED, "tuned": TUNED, "engine": ENGINE, "float32": ENGINE_FP32, "compiled": COMPILED}
    by_name = {names[name]: values for name, values in rates.items()}
    return Leg(mode, kind, by_name, "float32 8", [0.6, 0.7, 0.8], 1e11, {"dtype": dtype}, LOAD_S, 0.0)


def machine(usable: bool) -> Mapping[str, Any]:
    return {"usable_bf16": usable, "native_bf16": True, "bf16_gain": 2.0 if usable else 0.5}


def measured(**rates: list[float]) -> dict[str, Any]:
    dtype = "bfloat16" if "float32" in rates else "float32"
    return {
        "legs": [leg(mode, kind, dtype, **rates) for mode in (ONE, ALL) for kind in speed.KINDS],
        "profile": PROFILE,
    }


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("p", "w", 2.0, 2.0), "reached"),
        (Row("p", "w", 1.9, 2.0), "NOT REACHED"),
        (Row("p", "w", 2.0, 2.0, at_most=True), "reached"),
        (Row("p", "w", 2.1, 2.0, at_most=True), "NOT REACHED"),
        (Row("p", "w", None, 2.0), "not applicable here"),
        (Row("p", "w", 2.0), "no target"),
    ],
)
def test_a_row_says_whether_its_target_is_reached(row: Row, verdict: str) -> None:
    assert row.verdict == verdict
    assert json.loads(json.dumps(row.as_dict()))["verdict"] == verdict
    out = StringIO()
    show(Console(file=out, width=160), [row])
    assert verdict in out.getvalue()


def test_a_ratio_of_speed_is_taken_within_each_round() -> None:
    one = leg(ONE, "mixed", untouched=[10, 20, 60], engine=[20, 20, 240])
    assert one.ratio(ENGINE, UNTOUCHED) == 2
    assert one.ratios(ENGINE, UNTOUCHED) == "rounds 2.00, 1.00, 4.00"


def test_a_machine_without_useful_bf16_has_targets_of_its_own() -> None:
    rows = speed.rows(measured(untouched=[10.0], tuned=[12.0], engine=[15.0]), machine(usable=False))
    found = {row.what: row for row in rows}
    absent = found["engine / untouched encode, mixed, core-second"]
    assert (absent.verdict, absent.wanted) == ("not applicable here", 2.5)
    assert "0.5 times" in absent.note
    assert found["engine in float32 / untouched encode, mixed, core-second"].verdict == "reached"
    missed = found["engine in float32 / untouched encode, mixed, second, all cores"]
    assert (missed.value, missed.wanted, missed.verdict) == (1.5, 1.6, "NOT REACHED")
    assert "addmm 70%" in missed.note
    assert "tokenizing 2%" in missed.note
    assert found["engine / best tuned encode, mixed, core-second"].verdict == "reached"
    assert found["engine / best tuned encode, short, core-second"].verdict == "NOT REACHED"
    shares = [row for row in rows if "peak" in row.what]
    assert [row.verdict for row in shares] == ["no target"] * 2


def test_what_compiling_gains_and_costs_is_shown() -> None:
    what = "engine, compiled / engine, mixed, core-second"
    figures = measured(untouched=[10.0], tuned=[12.0], engine=[15.0])
    (without,) = [row for row in speed.rows(figures, machine(usable=False)) if row.what == what]
    assert (without.value, without.note) == (None, "no C++ compiler")
    figures = measured(untouched=[10.0], tuned=[12.0], engine=[10.0], compiled=[11.0])
    (row,) = [row for row in speed.rows(figures, machine(usable=False)) if row.what == what]
    assert row.value == pytest.approx(1.1)
    assert row.note == "rounds 1.10; loading takes 21 s more"


def test_a_machine_with_bf16_has_both_kinds_of_targets() -> None:
    figures = measured(untouched=[10.0], tuned=[12.0], engine=[26.0], float32=[13.0])
    found = {row.what: row for row in speed.rows(figures, machine(usable=True))}
    assert found["engine / untouched encode, mixed, core-second"].value == 2.6
    assert found["engine in float32 / untouched encode, mixed, core-second"].value == 1.3
    assert found["share of the bfloat16 matrix-product peak, mixed, one thread"].verdict == "reached"


def test_neighbours_are_kept_or_not() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(50, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert quality.kept(vectors, vectors, 10) == 1
    moved = vectors[::-1]
    by_hand = []
    for index in range(50):
        before, after = (
            set(sorted((other for other in range(50) if other != index), key=lambda other: -(v[index] @ v[other]))[:10])
            for v in (vectors, moved)
        )
        by_hand.append(len(before & after) / 10)
    assert quality.kept(vectors, moved, 10) == pytest.approx(np.mean(by_hand))
    assert quality.kept(vectors, moved, 10) < 0.6


def test_a_known_item_counts_where_it_is_among_the_first() -> None:
    found = np.eye(4, dtype=np.float32)
    asked = np.array([[1, 0, 0, 0], [0.9, 0.1, 0, 0], [0.9, 0.5, 0.1, 0], [0, 0, 0, 1]], dtype=np.float32)
    assert [quality.recall(asked, found, depth) for depth in (1, 2, 3)] == [0.5, 0.75, 1.0]


def test_recall_may_change_by_half_a_percent_and_in_no_direction_more() -> None:
    engine = {"dtype": "bfloat16", "kept": 0.991, "cosine_least": 0.9999, "recall_1": 0.806, "recall_10": 0.95}
    figures = {"texts": 9, "items": 9, "encode": {"recall_1": 0.8, "recall_10": 0.95}, "engine": {"auto": engine}}
    kept, drift = quality.rows(figures)
    assert (kept.verdict, drift.verdict) == ("reached", "NOT REACHED")


def test_the_worst_mix_counts_for_memory() -> None:
    (row,) = memory.rows({"above_bytes": {"short": 100_000_000, "long": 301_000_000}})
    assert (row.value, row.verdict) == (301, "NOT REACHED")


def test_queries_are_compared_within_a_round() -> None:
    one = {"alone_p50_ms": 10.0, "together_p99_ms": 20.0, "queries_a_batch": 30.0, "one_in_model_ms": 5.0}
    rounds = [{**one, "batch_in_model_ms": 18.0}, {**one, "batch_in_model_ms": 18.0, "together_p99_ms": 90.0}] * 2
    slow, together = queries.rows([*rounds, rounds[1]])
    assert (slow.value, slow.verdict, together.verdict) == (9, "NOT REACHED", "reached")
    assert "5.0 ms for one query, 18.0 ms for a batch of 30" in slow.note


def test_without_a_gpu_its_rows_do_not_apply() -> None:
    assert {row.verdict for row in gpu.rows({})} == {"not applicable here"}
    figures = {
        "share_of_peak": 0.41, "dtype": "bfloat16", "layout": "flat", "token_budget": 16384,
        "documents_per_s": 10.0, "documents_per_s_with_tokenizer": 8.0,
    }  # fmt: skip
    made = gpu.rows({"bge-base": [figures], "MiniLM": [figures]})
    assert [row.verdict for row in made] == ["reached"] + ["no target"] * 4


def test_the_rate_of_two_workers_is_that_of_both_while_both_are_busy() -> None:
    first = [(float(at), 100 * at) for at in range(11)]
    second = [(float(at), 100 * max(0, at - 2)) for at in range(11)]
    assert hash_drain.together([first]) == pytest.approx(100)
    assert hash_drain.together([first, second]) == pytest.approx(200, rel=0.05)


def test_the_gain_of_a_second_worker_is_taken_within_each_round() -> None:
    one = {
        "worker_cores": 1.0,
        "seconds": 10.0,
        "servers_cpu_s": {"milvus": 29.0},
        "other_cores": 0.0,
        "upsert_share": 0.5,
    }
    found = {
        "one": [{**one, "rate": 10.0}, {**one, "rate": 20.0}, {**one, "rate": 10.0}],
        "two": [{**one, "rate": 18.0}, {**one, "rate": 20.0}, {**one, "rate": 19.0}],
    }
    summary = hash_drain.summarize_two(found, 4)
    assert (summary["gain"], summary["one"], summary["two"]) == (1.8, 10, 19)
    assert "processors" in summary["limits"]["two"]


def test_texts_of_news_lengths_and_short_ones() -> None:
    lengths = texts.news_lengths(4000, 254)
    assert np.median(lengths) == pytest.approx(125, rel=0.05)
    assert 0.1 < np.mean(np.array(lengths) == 254) < 0.3
    assert min(lengths) >= 5
    tokenizer = HashEmbedder("hash:8").tokenizer
    counted = [len(tokens.ids) for tokens in tokenizer.tokenize(texts.mixed(tokenizer, 50))]
    assert counted == texts.news_lengths(50, 256)
    assert all(len(tokens.ids) <= 64 for tokens in tokenizer.tokenize(texts.short(tokenizer, 100)))
    items = texts.known_items(100)
    assert len(dict(items)) == 100
    assert all(rest and first not in rest.splitlines()[:1] for first, rest in items)
