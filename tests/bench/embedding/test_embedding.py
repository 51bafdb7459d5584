"""The arithmetic of `make bench-embed`, and what its table says."""

import json
from collections.abc import Mapping
from io import StringIO
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import Embedder, Execution, HashEmbedder, ModelStamp
from tests.bench import hash_drain
from tests.bench.embedding import gpu, gpu_checks, memory, quality, queries, speed_rows, texts
from tests.bench.embedding.engine import padding
from tests.bench.embedding.rows import Row, show
from tests.bench.embedding.speed import ALL, ENGINE, ENGINE_FP32, INT8, LOOP, ONE, TUNED, UNTOUCHED, Leg

SETTINGS = {TUNED: "float32 8", LOOP: "batch 16"}
NAMES = {
    "untouched": UNTOUCHED,
    "tuned": TUNED,
    "loop": LOOP,
    "engine": ENGINE,
    "float32": ENGINE_FP32,
    "int8": INT8,
}


def leg(mode: str, kind: str, dtype: str = "float32", **rates: list[float]) -> Leg:
    by_name = {NAMES[name]: values for name, values in rates.items()}
    return Leg(mode, kind, by_name, SETTINGS, [0.6, 0.7, 0.8], 1e11, {"dtype": dtype}, 0.02, 0.07, 0.0)


def machine(usable: bool) -> Mapping[str, Any]:
    return {"usable_bf16": usable, "native_bf16": True, "bf16_gain": 2.0 if usable else 0.5}


def legs(*kinds: str, **rates: list[float]) -> list[Leg]:
    dtype = "bfloat16" if "float32" in rates else "float32"
    return [leg(mode, kind, dtype, **rates) for mode in (ONE, ALL) for kind in kinds or texts.KINDS]


def rows_of(measured: list[Leg], *, usable_bf16: bool) -> dict[str, Row]:
    return {row.what: row for row in speed_rows.rows(measured, machine(usable_bf16))}


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
    found = rows_of(legs(untouched=[10.0], tuned=[12.0], loop=[14.0], engine=[15.0]), usable_bf16=False)
    absent = found["engine / untouched encode, mixed, core-second"]
    assert (absent.verdict, absent.wanted) == ("not applicable here", 2.5)
    assert "0.5 times" in absent.note
    assert found["engine in float32 / untouched encode, mixed, core-second"].verdict == "reached"
    missed = found["engine in float32 / untouched encode, mixed, second, all cores"]
    assert (missed.value, missed.wanted, missed.verdict) == (1.5, 1.6, "NOT REACHED")
    assert "tokenizing 2% of the processor time, padding 7% of the texts' tokens, 70% of the peak" in missed.note
    assert found["engine / best tuned encode, mixed, second, all cores"].wanted == 1.15
    assert found["engine / best tuned encode, short, second, all cores"].verdict == "NOT REACHED"
    assert [row.verdict for what, row in found.items() if "peak" in what] == ["no target"] * 2


def test_a_machine_with_bf16_has_both_kinds_of_targets() -> None:
    measured = legs(untouched=[10.0], tuned=[12.0], loop=[25.0], engine=[26.0], float32=[13.0], int8=[52.0])
    found = rows_of(measured, usable_bf16=True)
    assert found["engine / untouched encode, mixed, core-second"].value == 2.6
    assert found["engine in float32 / untouched encode, mixed, core-second"].value == 1.3
    assert found["share of the bfloat16 matrix-product peak, mixed, one thread"].verdict == "reached"
    tuned = (found[f"engine / best tuned encode, {kind}, second, all cores"] for kind in ("mixed", "short"))
    assert [row.wanted for row in tuned] == [2.0, 1.65]


def test_the_engine_is_compared_with_the_best_plain_loop() -> None:
    found = rows_of(legs(untouched=[10.0], tuned=[12.0], loop=[20.0], engine=[20.5]), usable_bf16=False)
    for kind in texts.KINDS:
        for per in ("core-second", "second, all cores"):
            row = found[f"engine / best plain OpenVINO loop, {kind}, {per}"]
            assert (row.value, row.wanted, row.verdict) == (1.025, 1.05, "NOT REACHED")
            assert "batch 16" in row.note
    found = rows_of(legs(untouched=[10.0], tuned=[12.0], engine=[20.5]), usable_bf16=False)
    row = found["engine / best plain OpenVINO loop, mixed, core-second"]
    assert (row.verdict, row.note) == ("not applicable here", "OpenVINO does not run this model")


def test_int8_is_compared_with_the_engines_own_bf16_and_has_no_target_without_it() -> None:
    what = "engine in int8 / engine, mixed, second, all cores"
    rates = {"untouched": [10.0], "tuned": [12.0], "loop": [20.0], "engine": [20.0]}
    assert rows_of(legs(**rates), usable_bf16=True)[what].verdict == "not applicable here"
    assert rows_of(legs(**rates, int8=[29.0]), usable_bf16=True)[what].verdict == "NOT REACHED"
    assert rows_of(legs(**rates, int8=[29.0]), usable_bf16=False)[what].verdict == "no target"


def test_a_machine_with_few_packages_has_no_such_texts() -> None:
    rates = {"untouched": [10.0], "tuned": [12.0], "loop": [20.0], "engine": [30.0]}
    found = rows_of(legs("mixed", "short", **rates), usable_bf16=False)
    row = found["engine / best tuned encode, packages, core-second"]
    assert row.verdict == "not applicable here"
    assert "fewer than 200 descriptions" in row.note


def test_padding_is_counted_in_the_batches_that_the_engine_makes() -> None:
    class Engine:
        stamp = ModelStamp("m", "d", 8, "mean", 41)
        engine = "openvino"
        execution = Execution("padded", workers=1, threads=1, token_budget=64)

    lengths = np.array([31, 31, 20, 10])
    # Batches of 64 tokens, longest first: 31 and 31 as 32 each; 20 and 10 as 20 each.
    assert padding(cast("Embedder", Engine()), lengths) == 2 * 32 + 2 * 20 - 92
    assert padding(cast("Embedder", Engine()), np.array([41])) == 0  # 44 would be more than the model reads
    Engine.execution = Execution("flat", workers=1, threads=1, token_budget=64)
    assert padding(cast("Embedder", Engine()), lengths) == 0


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
    engine = {"kept": 0.991, "cosine_least": 0.9999, "recall_1": 0.806, "recall_10": 0.95}
    encode = {"recall_1": 0.8, "recall_10": 0.95}
    kept, drift, int8 = quality.rows({"texts": 9, "items": 9, "encode": encode, "engine": {"bfloat16": engine}})
    assert (kept.verdict, drift.verdict) == ("reached", "NOT REACHED")
    assert (int8.what, int8.verdict) == ("top 10 neighbours kept, int8", "not applicable here")


def test_int8_has_no_target_beside_the_other_precisions() -> None:
    engine = {"kept": 0.9, "cosine_least": 0.98, "recall_1": 0.79, "recall_10": 0.94}
    figures = {
        "texts": 9,
        "items": 9,
        "encode": {"recall_1": 0.8, "recall_10": 0.95},
        "engine": {"float32": {**engine, "recall_1": 0.8}, "int8": engine},
    }
    *_, kept, drift = quality.rows(figures)
    assert (kept.value, kept.verdict, drift.verdict) == (0.9, "no target", "no target")
    assert "recall@1 encode 0.800, float32 0.800, int8 0.790; recall@10" in drift.note


def test_the_worst_mix_counts_for_memory() -> None:
    (row,) = memory.rows({"above_bytes": {"short": 100_000_000, "long": 301_000_000}})
    assert (row.value, row.verdict) == (301, "NOT REACHED")


def test_one_query_and_many_clients_have_targets_of_their_own() -> None:
    one = {"alone_p50_ms": 2.0, "together_p99_ms": 20.0, "queries_a_batch": 30.0, "one_in_model_ms": 1.5}
    rounds = [{**one, "batch_in_model_ms": 9.0}, {**one, "batch_in_model_ms": 9.0, "together_p99_ms": 90.0}]
    alone, clients, together = queries.rows([*rounds, rounds[1]], cores=2)
    assert (alone.value, alone.verdict) == (2, "reached")
    assert (clients.value, clients.verdict, together.verdict) == (90, "NOT REACHED", "reached")
    assert "a batch takes 9.0 ms in the model" in clients.note
    _, clients, _ = queries.rows(rounds, cores=1)
    assert clients.verdict == "no target"


def test_without_a_gpu_its_rows_do_not_apply() -> None:
    assert {row.verdict for row in gpu.rows({})} == {"not applicable here"}
    figures = {
        "share_of_peak": 0.41, "dtype": "bfloat16", "layout": "flat", "token_budget": 16384,
        "documents_per_s": 10.0, "documents_per_s_with_tokenizer": 8.0,
    }  # fmt: skip
    made = gpu.rows({"bge-base": [figures], "MiniLM": [figures]})
    assert [row.verdict for row in made] == ["reached"] + ["no target"] * 4


def test_checks_on_a_gpu_prove_nothing_without_a_lack_of_memory() -> None:
    assert {row.verdict for row in gpu_checks.rows({})} == {"not applicable here"}
    callers = {"cosine_least": 0.9999, "gain": 1.1}
    memory = {"cosine_least": 1.0, "token_budget": 16384, "token_budget_left": 4096}
    assert [row.verdict for row in gpu_checks.rows({"memory": memory, "callers": callers})] == ["reached"] * 2
    memory["token_budget_left"] = memory["token_budget"]
    made = gpu_checks.rows({"memory": memory, "callers": callers})
    assert [row.verdict for row in made] == ["NOT REACHED", "reached"]


def test_callers_that_share_an_engine_are_compared_with_one_alone() -> None:
    engine = HashEmbedder("hash:8")
    chunks = [chunk for each in Chunker(engine.tokenizer, ChunkingPolicy()).chunk(list("abcdefg")) for chunk in each]
    assert gpu_checks.shared_by(engine, chunks, 3)["cosine_least"] == pytest.approx(1)
    wrong = np.array([[1.0, 0.0], [np.nan, 1.0]], np.float32)
    assert gpu_checks.least_cosine(np.ones((2, 2), np.float32), wrong) == -1


@pytest.mark.parametrize(
    ("machine", "devices"),
    [
        ({"gpu": None, "native_bf16": False}, {"float32": "cpu"}),
        ({"gpu": None, "native_bf16": True}, {"float32": "cpu", "bfloat16": "cpu"}),
        ({"gpu": "H200", "native_bf16": False}, {"float32": "cuda", "bfloat16": "cuda", "float16": "cuda"}),
    ],
)
def test_every_precision_of_the_device_is_compared(machine: Mapping[str, Any], devices: dict[str, str]) -> None:
    assert quality.devices(machine, int8=False) == devices
    assert quality.devices(machine, int8=True) == {**devices, "int8": "cpu"}


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


def test_descriptions_of_packages_are_read_from_dpkgs_list() -> None:
    status = """Package: one
Description: a tool
 Does what
  it says.
 .
 .NET is not needed.
Homepage: https://example.org
 not a description

Package: two
Description: a tool
 Does what
  it says.
 .
 .NET is not needed.

Package: three
Description: last"""
    first = "a tool\nDoes what\nit says.\n\n.NET is not needed."
    assert sorted(texts.package_descriptions(status.splitlines())) == sorted([first, "last"])
