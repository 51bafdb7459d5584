"""The examples of docs/search-api.md are what the parser takes and what the answer looks like."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from consumers.http.problems import problem_of
from pipeline.query import (
    DocumentHistory,
    InvalidRequest,
    SearchAnswer,
    SearchAnswers,
    StoredDocument,
    parse_request,
    parse_similar,
)
from tests.docs.blocks import DOCS, blocks

EXAMPLES = [(label, json.loads(content)) for label, content in blocks(DOCS / "search-api.md", "json")]
SHAPES: dict[str, TypeAdapter[Any]] = {
    "answer": TypeAdapter(SearchAnswer),
    "answers": TypeAdapter(SearchAnswers),
    "document": TypeAdapter(StoredDocument),
    "history": TypeAdapter(DocumentHistory),
}
NOW_MS = 1_795_348_800_000


def examples(label: str) -> list[Any]:
    found = [value for name, value in EXAMPLES if name == label]
    assert found, f"no example with the label {label}"
    return found


def test_every_example_has_a_known_label() -> None:
    known = {"request", "similar request", "problem", *SHAPES}
    assert [label for label, _ in EXAMPLES if label not in known and not label.startswith("refused /")] == []


@pytest.mark.parametrize("body", examples("request"), ids=str)
def test_a_request_is_accepted(body: Any) -> None:
    assert parse_request(body).queries


@pytest.mark.parametrize("body", examples("similar request"), ids=str)
def test_a_request_for_similar_documents_is_accepted(body: Any) -> None:
    assert parse_similar(body).search.mode == "dense"


def test_the_requests_use_every_key_and_every_operator() -> None:
    written = json.dumps(examples("request"))
    missing = {"query", "limit", "time", "last", "from", "to", "filter", "fields", "group_by"}
    assert [key for key in missing if f'"{key}"' not in written] == []


@pytest.mark.parametrize("label", SHAPES)
def test_an_answer_has_exactly_the_fields_of_the_code(label: str) -> None:
    for value in examples(label):
        shape = SHAPES[label]
        assert shape.dump_python(shape.validate_python(value), mode="json") == value


def test_a_refused_request_is_answered_with_the_problem_shown() -> None:
    ((label, body),) = [(label, value) for label, value in EXAMPLES if label.startswith("refused ")]
    with pytest.raises(InvalidRequest) as refusal:
        parse_request(body)
    assert refusal.value.at == label.removeprefix("refused ")
    assert json.loads(bytes(problem_of(refusal.value).response().body)) == examples("problem")[0]


def test_the_answer_in_the_readme_has_fields_of_the_code_only() -> None:
    ((_, content),) = [block for block in blocks(DOCS.parent / "README.md", "json") if block[0] == "answer"]
    shown, whole = json.loads(content), examples("answer")[0]
    assert shown.keys() <= whole.keys()
    assert shown["results"][0].keys() <= whole["results"][0].keys()
    assert shown["searched"].keys() == whole["searched"].keys()
