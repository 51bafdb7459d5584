"""`search --watch`: what each round prints, what a failed one says, and how it ends."""

import io
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from consumers.cli.app import app
from consumers.cli.search.local import local_search
from consumers.cli.search.watch import JsonLines, Lines, Screen, parse_interval, watch
from consumers.config import Settings
from consumers.wiring import connections
from pipeline.errors import Mismatch, NotFound, RateLimited, Unavailable, UsageError
from tests.support.fakes.milvus import FakeMilvus
from tests.support.processes import running
from tests.support.rigs.scripted_server import scripted_server

SECONDS = timedelta(seconds=5)


def hit(doc_id: str, offset: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"id of {doc_id}",
        "doc_id": doc_id,
        "text": f"text {offset} of {doc_id}",
        "score": 0.5,
        "scores": {},
        "event_time": "2026-11-22T09:30:00Z",
        "chunk": 0,
        "partition": None,
        "source": {"topic": "t", "partition": 0, "offset": offset},
        "metadata": {},
        "highlights": None,
        "passage": None,
        **changes,
    }


def answer(*hits: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "results": list(hits),
        "partial": False,
        "searched": {"partitions": 1, "skipped": 0, "reasons": {}},
        "warnings": [],
        "mode": "dense",
        "freshness": {"event_time": None, "lag_s": None},
        "timing_ms": {"embed": 1.0, "search": 2.0, "total": 3.0},
        "total": None,
        "explain": None,
        **changes,
    }


class Rounds:
    """Answers, or raises, in this order, and ends the watch after the last one."""

    def __init__(self, *rounds: Any) -> None:
        self.rounds: Iterator[Any] = iter(rounds)
        self.left = len(rounds)
        self.waited: list[float] = []
        self.began = 0

    def ask(self) -> Mapping[str, Any]:
        self.left -= 1
        found = next(self.rounds)
        if isinstance(found, Exception):
            raise found
        return dict(found)

    def wait(self, seconds: float) -> bool:
        self.waited.append(seconds)
        return self.left == 0

    def begin(self) -> None:
        self.began += 1


def watched(view: Any, *rounds: Any) -> Rounds:
    made = Rounds(*rounds)
    watch(made.ask, view, SECONDS, made.wait, began=made.begin)
    return made


def json_lines(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_only_what_is_new_or_changed_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    a, b, later = hit("a"), hit("b"), hit("b", 2)
    ran = watched(
        JsonLines(),
        answer(a),
        answer({**b, "score": 0.6}, {**a, "score": 0.4, "highlights": [[0, 4]], "passage": [0, 4]}),
        answer(later, a),
        answer(),
        answer(a),
    )
    assert json_lines(capsys) == [a, {**b, "score": 0.6}, later, a]
    assert ran.waited == [5.0] * 5


def test_the_results_of_several_vectors_have_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    several = {key: value for key, value in answer().items() if key != "results"}
    watched(JsonLines(), {**several, "answers": [{"results": [hit("a")]}, {"results": [hit("a")]}]})
    assert [(line["query"], line["doc_id"]) for line in json_lines(capsys)] == [(0, "a"), (1, "a")]


def test_a_number_of_rows_and_warnings_are_printed_when_they_change(capsys: pytest.CaptureFixture[str]) -> None:
    watched(
        JsonLines(),
        answer(total=5, warnings=["w"]),
        answer(total=5, warnings=["w"]),
        answer(total=6),
        answer(total=6, warnings=["w"]),
    )
    shown = capsys.readouterr()
    assert [json.loads(line) for line in shown.out.splitlines()] == [{"total": 5}, {"total": 6}]
    assert shown.err == "warning: w\n" * 2


def test_lines_are_those_of_a_search_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    watched(
        Lines(Console(file=out, width=240)), answer(hit("a\x1b[2J", text="x" * 500), total=1_000), answer(total=1_000)
    )
    facts, passage, total = out.getvalue().splitlines()
    assert facts.split()[:2] == ["0.500", "a\\u001b[2J"]
    assert passage.strip() == "x" * 500
    assert total == "1,000 rows match filter and time range"


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), unique_by=lambda pair: pair[0])))
def test_a_reader_of_the_changes_knows_every_result(rounds: list[list[tuple[str, int]]]) -> None:
    class Reader(JsonLines):
        def _print_result(self, hit: Mapping[str, Any], query: int | None) -> None:
            known[hit["doc_id"]] = hit["source"]["offset"]
            printed.append(hit["doc_id"])

    view, known = Reader(), dict[str, int]()
    before: list[tuple[str, int]] = []
    for one in rounds:
        printed: list[str] = []
        view.show(answer(*(hit(doc_id, offset) for doc_id, offset in one)))
        assert {doc_id: known[doc_id] for doc_id, _ in one} == dict(one)
        assert printed == [doc_id for doc_id, offset in one if (doc_id, offset) not in before]
        before = one


def test_a_terminal_shows_the_last_answer() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    screen = Screen(console, SECONDS, lambda: datetime(2026, 11, 22, 9, 30, 15, tzinfo=UTC))
    watched(screen, answer(hit("a")), answer(hit("a"), hit("b")))
    _, first, second = out.getvalue().split("\x1b[2J")
    assert "every 5s, 09:30:15" in second
    assert first.count("text 1 of") == 1
    assert second.count("text 1 of") == 2
    assert "1 Milvus partitions searched" in second


@pytest.mark.parametrize("error", [Unavailable("Milvus\nis away"), RateLimited("too many"), NotFound("dropped")])
def test_a_failing_round_is_named_once_and_tried_again(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    ran = watched(JsonLines(), error, error, answer(hit("a")), error, Unavailable("other"), answer(hit("a")), error)
    shown = capsys.readouterr()
    message = " ".join(str(error).split())
    assert shown.err == f"{message}; trying again every 5s\n" * 3
    assert len(shown.out.splitlines()) == 1
    assert (ran.began, ran.waited) == (1, [5.0] * 7)


@pytest.mark.parametrize("error", [UsageError("wrong"), Mismatch("another model")])
def test_what_another_round_would_meet_again_ends_it(error: Exception) -> None:
    with pytest.raises(type(error)):
        watched(JsonLines(), answer(), error, answer())


@pytest.mark.parametrize("text", ["", "5", "0s", "999ms", "-5s", "1d1s", "25h", "soon", "9999999999999w"])
def test_an_interval_has_bounds(text: str) -> None:
    with pytest.raises(UsageError, match="--watch"):
        parse_interval(text)
    assert [parse_interval(given).total_seconds() for given in ("1s", "1d")] == [1, 86_400]


def test_an_explanation_is_for_one_search() -> None:
    with pytest.raises(UsageError, match="--explain is for one search"):
        app(["search", "q", "--watch", "5s", "--explain"], standalone_mode=False)


def test_a_search_from_here_is_opened_again_until_milvus_is_there(
    settings: Settings, milvus: FakeMilvus, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected: Callable[[Settings], Any] = connections.milvus
    attempts = 0

    def away_at_first(given: Settings) -> Any:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise Unavailable("Milvus is away")
        return connected(given)

    monkeypatch.setattr(connections, "milvus", away_at_first)
    with local_search(settings, {"query": "q", "mode": "keyword"}) as ask:
        with pytest.raises(Unavailable, match="is away"):
            ask()
        for _ in range(2):
            with pytest.raises(Unavailable, match="does not exist yet"):
                ask()
    assert attempts == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_0_and_without_a_word(number: signal.Signals, tmp_path: Path) -> None:
    with scripted_server() as server:
        server.body = json.dumps(answer(hit("a"))).encode()
        environment = {"PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": ""}
        command = ["-m", "consumers.cli", "search", "q", "--watch", "1s", "--json", "--url", server.address]
        with running(command, tmp_path / "log", environment) as process:
            assert process.json_line(within=60)["doc_id"] == "a"
            server.body = json.dumps(answer(hit("b"), hit("a"))).encode()
            assert process.json_line(within=60)["doc_id"] == "b"
            assert process.end(number) == 0
            assert process.errors() == ""
