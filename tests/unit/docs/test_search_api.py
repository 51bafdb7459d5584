"""The examples of docs/search-api.md are what the parser takes and what the answer looks like."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from consumers.http.problems import problem_of
from pipeline.query import (
    DocumentHistory,
    FreshnessReport,
    InvalidRequest,
    NotFreshYet,
    SearchAnswer,
    SearchAnswers,
    StoredDocument,
    parse_request,
    parse_similar,
)
from pipeline.query.answer import Explanation
from pipeline.query.facet_counts import Facets
from pipeline.query.freshness.waiting import behind
from pipeline.query.highlights import mark
from pipeline.query.request.cursor_request import parse_cursor_request
from pipeline.query.terms import terms_of
from tests.docs.blocks import DOCS, blocks

EXAMPLES = [(label, json.loads(content)) for label, content in blocks(DOCS / "search-api.md", "json")]
SHAPES: dict[str, TypeAdapter[Any]] = {
    "answer": TypeAdapter(SearchAnswer),
    "answers": TypeAdapter(SearchAnswers),
    "facets": TypeAdapter(Facets),
    "explain": TypeAdapter(Explanation),
    "freshness": TypeAdapter(FreshnessReport),
    "document": TypeAdapter(StoredDocument),
    "history": TypeAdapter(DocumentHistory),
}
NOW_MS = 1_795_348_800_000


def examples(label: str) -> list[Any]:
    found = [value for name, value in EXAMPLES if name == label]
    assert found, f"no example with the label {label}"
    return found


def test_every_example_has_a_known_label() -> None:
    known = {"request", "similar request", "problem", "highlighted", "cursor", "late", *SHAPES}
    assert [label for label, _ in EXAMPLES if label not in known and not label.startswith("refused /")] == []


@pytest.mark.parametrize("body", examples("request"), ids=str)
def test_a_request_is_accepted(body: Any) -> None:
    assert parse_request(body).queries


@pytest.mark.parametrize("body", examples("similar request"), ids=str)
def test_a_request_for_similar_documents_is_accepted(body: Any) -> None:
    assert parse_similar(body).search.mode == "dense"


def test_the_requests_use_every_key_and_every_operator() -> None:
    written = json.dumps(examples("request"))
    missing = {"query", "limit", "time", "last", "from", "to", "filter", "fields", "group_by", "wait_for"}
    missing |= {"vector", "params", "group_size", "count", "explain"}
    assert [key for key in missing if f'"{key}"' not in written] == []
    operators = {"contains_any", "exists", "match", "not", "prefix", "in", "gte", "ne"}
    assert [operator for operator in operators if f'"type": "{operator}"' not in written] == []


@pytest.mark.parametrize("label", SHAPES)
def test_an_answer_has_exactly_the_fields_of_the_code(label: str) -> None:
    for value in examples(label):
        shape = SHAPES[label]
        assert shape.dump_python(shape.validate_python(value), mode="json") == value


def test_the_highlights_shown_are_those_of_the_code() -> None:
    (shown,) = examples("highlighted")
    highlights, passage = mark(shown["text"], terms_of("refund failed"))
    assert [[*span] for span in highlights] == shown["highlights"]
    assert [*passage] == shown["passage"]


def test_the_request_for_a_page_is_accepted() -> None:
    (body,) = examples("cursor")
    assert parse_cursor_request(body).limit == body["limit"]


def test_a_refused_request_is_answered_with_the_problem_shown() -> None:
    ((label, body),) = [(label, value) for label, value in EXAMPLES if label.startswith("refused ")]
    with pytest.raises(InvalidRequest) as refusal:
        parse_request(body)
    assert refusal.value.at == label.removeprefix("refused ")
    assert json.loads(bytes(problem_of(refusal.value).response().body)) == examples("problem")[0]


def test_a_late_record_is_answered_with_the_problem_shown() -> None:
    ((_, request),) = [(label, body) for label, body in EXAMPLES if label == "request" and "freshness" in body]
    freshness = parse_request(request).freshness
    assert freshness is not None
    late = NotFreshYet(behind(freshness.wait_for, {("documents", 3): 1000}))
    assert [json.loads(bytes(problem_of(late).response().body))] == examples("late")


def test_the_answer_in_the_readme_has_fields_of_the_code_only() -> None:
    ((_, content),) = [block for block in blocks(DOCS.parent / "README.md", "json") if block[0] == "answer"]
    shown, whole = json.loads(content), examples("answer")[0]
    assert shown.keys() <= whole.keys()
    assert shown["results"][0].keys() <= whole["results"][0].keys()
    assert shown["searched"].keys() == whole["searched"].keys()
