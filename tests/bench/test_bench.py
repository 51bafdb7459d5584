"""The benchmark's own arithmetic, and that a contender is timed from the word go."""

import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.bench import drain, hash_drain
from tests.bench.children import contender
from tests.bench.corpus import BenchDocument, longer, small_records, spread
from tests.bench.report import Target
from tests.bench.stage import Stage
from tests.bench.stage_clock import StageClock
from tests.bench.workers import Figures
from tests.support.waiting import eventually

_RATIOS = ("ratio_documents", "ratio_tokens", "share_of_bare_engine", "ledger_share_of_drain")


def _round(seconds: float, records: int = 100, tokens: int = 1000) -> dict[str, Any]:
    figures = {"seconds": seconds, "cpu_s": 2 * seconds, "records": records, "tokens": tokens}
    return {**figures, "peak_rss_bytes": 2**20, "threads": {}, "other_cores": 0.0}


def test_a_ratio_is_taken_within_each_round() -> None:
    """Rounds differ in what else the machine does: the median of the ratios is not the ratio of the medians."""
    figures = {
        "naive": [_round(10), _round(20), _round(60)],
        "openvino_loop": [_round(20), _round(10), _round(30)],
        "ours": [_round(10, tokens=1500), _round(5, tokens=1500), _round(20, tokens=1500)],
        "append": [_round(9), _round(4), _round(19)],
        "bare": [_round(8), _round(4), _round(16)],
    }
    summary = drain.summarize({"mixed": figures})["mixed"]
    assert summary["ratio_documents"] == 3
    assert summary["ratio_tokens"] == 4.5
    assert summary["of_openvino_loop"] == {"documents": 2.0, "tokens": 3.0}
    assert summary["share_of_bare_engine"] == 0.8
    assert summary["ledger_share_of_drain"] == pytest.approx(0.1)
    assert summary["naive"]["documents_per_s"] == 5
    assert summary["share_of_bare_engine_cpu"] == 0.8


def test_the_report_names_who_kept_the_cores_busy() -> None:
    ours = {
        **_round(10),
        "threads": {"embed": 2.0, "native": 10.0, "ingest-write": 1.0},
        "servers_cpu_s": {"milvus": 3.0},
    }
    summary = drain.summarize({"mixed": {name: [ours] for name in drain.CONTENDERS}})["mixed"]
    assert summary["cores"] == {"model": 1.2, "rest of the worker": 0.8, "milvus": 0.3}


@pytest.mark.parametrize(
    ("native", "gain", "wanted"), [(False, 0.3, {1.5}), (True, 2.1, {2.5}), (True, 0.53, {2.5, 1.5})]
)
def test_bf16_that_is_there_and_slower_is_reported_against_both_targets(
    native: bool, gain: float, wanted: set[float]
) -> None:
    summary = {name: dict.fromkeys(_RATIOS, 1.5) for name in drain.SETS}  # fmt: skip
    machine = {"native_bf16": native, "bf16_gain": gain, "model": {"device": "cpu"}}
    targets = [target for target in drain.targets(summary, machine) if "naive" in target.name]
    assert {target.wanted for target in targets} == wanted
    assert {target.wanted: target.reached for target in targets} == {number: number == 1.5 for number in wanted}


def test_the_worker_is_compared_with_a_plain_openvino_loop_where_there_is_one() -> None:
    machine = {"native_bf16": True, "bf16_gain": 2.0, "model": {"device": "cpu"}}
    ratios = dict.fromkeys(_RATIOS, 1.5)
    loop = {"documents": 1.12, "tokens": 1.12}
    targets = drain.targets({name: {**ratios, "of_openvino_loop": loop} for name in drain.SETS}, machine)
    found = {target.name: target.reached for target in targets if "OpenVINO" in target.name}
    assert list(found.values()) == [True, False]
    assert "documents/s as a multiple of the plain OpenVINO loop's, fitting" in found
    without = drain.targets(dict.fromkeys(drain.SETS, ratios), machine)
    assert not [target for target in without if "OpenVINO" in target.name]


def test_refused_searches_are_no_good_ones_and_no_errors() -> None:
    seen = Figures(2.0, Counter({200: 4, 429: 5, 503: 1, 0: 2}), [0.001, 0.002, 0.003, 0.004])
    row = seen.row("300")
    assert (row["ok/s"], row["429"], row["other"]) == (2.0, 5, 3)
    assert row["p50 ms"] == pytest.approx(2.5)


def test_a_target_is_reached_from_its_own_side() -> None:
    assert Target("rate", 8000, 8000).reached
    assert not Target("rate", 7999, 8000).reached
    assert Target("seconds", 1.4, 1.5, at_most=True).reached
    assert not Target("seconds", 1.6, 1.5, at_most=True).reached


def test_the_loops_are_credited_with_the_tokens_that_they_do_not_cut_off() -> None:
    documents = [BenchDocument("a", "", 10, 1, 10), BenchDocument("b", "", 600, 3, 660)]
    stage = Stage("", "", Path(), {}, {"max_tokens": 254})
    assert drain.tokens(stage, "naive", documents) == drain.tokens(stage, "openvino_loop", documents) == 264
    assert drain.tokens(stage, "ours", documents) == 670


def test_small_records_have_their_size_and_ids_of_their_own() -> None:
    records = list(small_records(200, 300))
    assert {len(value) for _, value in records} == {300}
    assert len({json.loads(value)["id"] for _, value in records}) == 200


def test_more_documents_differ_in_every_text_and_hardly_in_length() -> None:
    documents = [BenchDocument(str(number), text, 5, 1, 5) for number, text in enumerate(["In the end", "Short"])]
    found = longer(documents, 3)
    assert found[:2] == documents
    assert len({document.id for document in found}) == len({document.text for document in found}) == 6
    assert [document.text for document in found[2:]] == ["In that end", "Short that", "In this end", "Short this"]


def test_documents_are_spread_over_a_week() -> None:
    documents = [BenchDocument(str(number), "x", 1, 1, 1) for number in range(70)]
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    days = {json.loads(value)["event_time"][:10] for _, value in spread(documents, now)}
    assert len(days) in (7, 8)


def test_only_what_follows_the_word_go_is_timed(tmp_path: Path) -> None:
    with contender("bare", {"settings": {"embedding": {"model": "hash:8"}}, "documents": "/dev/null"}, tmp_path) as it:
        it.prepare({"ids": [], "times": 1})
        time.sleep(1.0)  # counted, were it timed from the job instead of the word
        figures = it.go()
    assert figures["seconds"] < 1.0
    assert 10 * 2**20 < figures["peak_rss_bytes"] < 2**30


def test_a_contender_that_fails_shows_why(tmp_path: Path) -> None:
    given = {"settings": {"embedding": {"model": "hash:eight"}}, "documents": "/dev/null"}
    with pytest.raises(RuntimeError, match="hash:eight"), contender("bare", given, tmp_path) as it:
        it.prepare({"ids": [], "times": 1})


def test_the_clock_names_the_thread_that_works_and_finds_the_steady_rate() -> None:
    done = 0
    with StageClock(lambda: done, 1000) as clock:

        def work() -> None:
            nonlocal done
            until = time.process_time() + 1.0
            while time.process_time() < until:
                done = int(1000 * (1.0 - (until - time.process_time())))

        thread = threading.Thread(target=work, name="ingest-write")
        began = time.perf_counter()
        thread.start()
        thread.join()
        whole = 1000 / (time.perf_counter() - began)
    figures = clock.figures()
    assert figures["threads"]["ingest-write"] > 0.5
    assert figures["threads"].get("poll and commit", 0.0) < 0.3
    assert whole / 4 < figures["steady_rate"] < whole * 4  # on a loaded machine the second is not an even one
    eventually(lambda: not any(thread.name == "stage-clock" for thread in threading.enumerate()))


@pytest.mark.parametrize(
    ("worker", "servers", "share", "says"),
    [
        (0.8, {"milvus": 2.9}, 0.6, "processors"),
        (0.5, {"milvus": 1.0}, 0.9, "Milvus's answers"),
        (1.0, {}, 0.3, "Python's lock"),
        (0.3, {}, 0.3, "neither"),
    ],
)
def test_the_limit_is_named_by_what_is_busy(worker: float, servers: dict[str, float], share: float, says: str) -> None:
    summary = {"worker_cores": worker, "server_cores": servers, "upsert_share": share}
    assert says in hash_drain.limit(summary, 4)
