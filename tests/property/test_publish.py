"""Whatever rows are published: the records say the same documents, and the manifest knows what was sent."""

import json
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.cli.publish.plan import (
    Checker,
    Plan,
    Problem,
    make_plan,
    manifest_after,
    manifest_before,
    to_send,
    vanished,
)
from consumers.cli.publish.rows import Row, Shape, json_lines
from pipeline.errors import UsageError
from pipeline.intake import Decoder, IntakeLimits, RecordMapping
from pipeline.records import Position, Put, SourceRecord

NOW_MS = 1_795_348_800_000
DECODER = Decoder(RecordMapping(), IntakeLimits(100_000, 600_000, None), append=False)
CHECKER = Checker(DECODER, "documents", NOW_MS, 100_000, deletes=True)
SHAPE = Shape("id", "text", "event_time", {"slug": "id", "body": "text"}, 100_000)

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(lambda name: not name.isspace())
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: any(character.isalnum() for character in text)
)
documents = st.dictionaries(ids, texts, max_size=8)
Sent = dict[str, bytes]


def rows(wanted: dict[str, str], *lines: bytes) -> Callable[[], Iterator[Row]]:
    known = [json.dumps({"slug": name, "body": text}).encode() for name, text in wanted.items()]
    content = b"\n".join([*known, *lines])
    return lambda: json_lines(BytesIO(content), "f", SHAPE)


def planned(source: Callable[[], Iterator[Row]], published: dict[str, str]) -> tuple[Plan, list[Problem]]:
    problems: list[Problem] = []
    return make_plan(source, CHECKER, published, problems.append, lambda _: None), problems


def text_of(key: str, value: bytes) -> str:
    record = SourceRecord(Position("documents", 0, 0), NOW_MS, key.encode(), value)
    operation = DECODER.decode(record, NOW_MS)
    assert isinstance(operation, Put)
    assert operation.document.doc_id == key
    return operation.document.text


@given(documents, st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line), max_size=3))
def test_the_records_are_the_documents_of_the_rows(wanted: dict[str, str], noise: Sequence[bytes]) -> None:
    source = rows(wanted, *noise)
    plan, problems = planned(source, {})
    sent = {checked.doc_id: text_of(checked.doc_id, checked.value) for checked in to_send(source(), CHECKER, plan)}
    assert sent == wanted
    assert plan.rows == len(wanted) + len(problems)
    assert all(problem.where.startswith("f:") and problem.why for problem in problems)


@given(st.lists(st.tuples(documents, st.none() | st.integers(0, 8), st.booleans()), max_size=6))
def test_whatever_is_cut_off_a_whole_run_leaves_the_topic_as_the_rows(
    runs: list[tuple[dict[str, str], int | None, bool]],
) -> None:
    """`runs`: rows, after how many records the run is cut off, whether it deletes; at last a whole run that deletes."""
    manifest: dict[str, str] = {}
    topic: dict[str, str] = {}
    for wanted, cut, deletes in [*runs, (runs[0][0] if runs else {}, None, True)]:
        source = rows(wanted)
        plan, _ = planned(source, manifest)
        gone = vanished(plan, manifest) if deletes else []
        before = manifest
        manifest = manifest_before(plan, before, gone)
        sends = list(to_send(source(), CHECKER, plan))
        records = [(one.doc_id, text_of(one.doc_id, one.value)) for one in sends] + [(name, None) for name in gone]
        for name, text in records[:cut]:
            if text is None:
                topic.pop(name, None)
            else:
                topic[name] = text
        if cut is None:
            manifest = manifest_after(plan, before, gone)
            assert {name: topic[name] for name in wanted} == wanted
            assert set(manifest) >= set(topic)
            again, _ = planned(source, manifest)
            assert not again.pending
    assert topic == (runs[0][0] if runs else {})


@given(documents.filter(bool), texts)
def test_rows_that_contradict_each_other_are_refused_before_anything_is_sent(
    wanted: dict[str, str], other: str
) -> None:
    name, text = next(iter(wanted.items()))
    line = json.dumps({"slug": name, "body": text + other}).encode()
    with pytest.raises(UsageError, match="share an id"):
        planned(rows(wanted, line), {})


def test_rows_that_change_between_the_passes_are_noticed() -> None:
    plan, _ = planned(rows({"a": "one", "b": "two"}), {})
    for now in ({"a": "one", "b": "three"}, {"a": "one"}):
        with pytest.raises(UsageError, match="changed while it was published"):
            list(to_send(rows(now)(), CHECKER, plan))
