"""Field paths: what becomes of a record whose fields are taken from elsewhere in it."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.intake import Decoder, FieldPaths, Reason, RecordMapping
from pipeline.intake.field_paths import FieldPath
from pipeline.records import Delete
from tests.unit.pipeline.intake.decoding import LIMITS, decode, document, put, record_of, rejected

SOURCES: Mapping[str, Sequence[str]] = {"id": ("$.after.id",), "text": ("$.title", "$.body"), "event_time": ("$.ts",)}


def arrange(
    content: dict[str, Any], fields: Mapping[str, Sequence[str]], template: str | None = None
) -> dict[str, Any]:
    return FieldPaths(fields, text_field="text", text_template=template).apply(deepcopy(content))


def test_a_document_made_of_nested_fields() -> None:
    value = {"after": {"id": 7, "lang": "en"}, "title": "Refunds", "body": "In ten days.", "ts": "2026-11-22T10:00:00Z"}
    made = document(value, mapping=RecordMapping(fields=SOURCES))
    assert (made.doc_id, made.text, made.event_time) == ("7", "Refunds\n\nIn ten days.", 1_795_341_600_000)
    assert made.metadata == {"after": {"lang": "en"}}, "what was taken leaves its old place"


@pytest.mark.parametrize(
    ("content", "fields", "arranged"),
    [
        ({"a": {"b": 1}}, {"id": ["$.a.b"]}, {"id": 1}),
        ({"a": {"b": 1, "c": 2}}, {"id": ["$.a.b"]}, {"a": {"c": 2}, "id": 1}),
        ({"a": [{"b": 1}, {"b": 2}]}, {"id": ["$.a[-1].b"]}, {"a": [{"b": 1}, {"b": 2}], "id": 2}),
        ({"b": 2}, {"id": ["$.a", "$.b", "$.c"]}, {"id": 2}),
        ({"a": 1, "b": 2}, {"id": ["$.a", "$.b"]}, {"b": 2, "id": 1}),
        ({"a": 0, "b": 2}, {"id": ["$.a", "$.b"]}, {"b": 2, "id": 0}),
        ({"a": None, "id": "x"}, {"id": ["$.a"]}, {"a": None, "id": "x"}),
        ({"id": {"value": "x"}}, {"id": ["$.id.value"]}, {"id": "x"}),
        (
            {"title": "t", "body": "b"},
            {"text": ["$.title", "$.body"], "title": ["$.title"]},
            {"text": "t\n\nb", "title": "t"},
        ),
        ({"title": "t"}, {"text": ["$.title", "$.body"]}, {"text": "t"}),
        ({"a.b": {"": 1}}, {"id": ["$['a.b']['']"]}, {"id": 1}),
        ({"a": "not an object"}, {"id": ["$.a.b"], "n": ["$.a[0]"]}, {"a": "not an object"}),
        ({"a": {"b": {"c": 1}}}, {"id": ["$.a.b.c"], "all": ["$.a.b"]}, {"id": 1, "all": {"c": 1}}),
    ],
)
def test_values_move(content: dict[str, Any], fields: Mapping[str, Sequence[str]], arranged: dict[str, Any]) -> None:
    assert arrange(content, fields) == arranged


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{title}: {$.body.plain}", "T: B"),
        ("{title} {missing}", "T"),
        ("{{{title}}}", "{T}"),
        ("{n}/{ title }", "3/T"),
    ],
)
def test_a_template_fills_the_text(template: str, text: str) -> None:
    arranged = arrange({"title": "T", "body": {"plain": "B", "html": "<b>"}, "n": 3}, {}, template)
    assert arranged["text"] == text
    assert "title" not in arranged


@pytest.mark.parametrize(
    "mapping",
    [
        RecordMapping(text_template="{id}: {body} of {event_time}", version_field="v", tenant_field="org"),
        RecordMapping(fields={"text": ("$.id", "$.body")}, version_field="v", tenant_field="org"),
        RecordMapping(fields={"number": ("$.id",), "text": ("$.body",)}, version_field="v", tenant_field="org"),
    ],
)
def test_a_field_with_a_meaning_stays_whatever_else_it_is_used_for(mapping: RecordMapping) -> None:
    value = {"id": "7", "body": "x", "event_time": "2026-11-22T10:00:00Z", "v": 3, "org": "acme"}
    made = put(value, mapping=mapping)
    assert (made.document.doc_id, made.document.tenant, made.version) == ("7", "acme", 3)
    assert made.document.event_time == 1_795_341_600_000


def test_a_delete_and_an_identity_need_no_text() -> None:
    mapping = RecordMapping(fields={"text": ("$.t", "$.b")}, delete_field="gone")
    value = {"id": "7", "t": "x", "b": True}
    assert rejected(value, mapping=mapping).reason == Reason.INVALID_TEXT
    assert isinstance(decode({**value, "gone": True}, mapping=mapping), Delete)
    assert Decoder(mapping, LIMITS, append=False).identify(record_of(value)) == (None, "7")


def test_a_number_of_any_length_in_a_text_is_refused_or_written() -> None:
    assert document({"n": 10**18, "id": "1"}, mapping=RecordMapping(text_template="{n}")).text == str(10**18)
    raw = b'{"id": "1", "n": %s}' % (b"9" * 300)
    assert len(document(raw, mapping=RecordMapping(text_template="{n}")).text) == 300


def test_a_template_without_any_value_leaves_the_text_missing() -> None:
    verdict = rejected({"id": "1"}, mapping=RecordMapping(text_template="{title}: {body}"))
    assert verdict.reason == Reason.MISSING_TEXT


@pytest.mark.parametrize("value", [True, ["t"], {"t": 1}])
def test_a_part_of_the_text_that_is_no_text_is_rejected_with_its_path(value: object) -> None:
    verdict = rejected({"id": "1", "title": value, "body": "b"}, mapping=RecordMapping(fields=SOURCES))
    assert (verdict.reason, "$.title" in verdict.message) == (Reason.INVALID_TEXT, True)


@pytest.mark.parametrize(
    "path", ["after.id", "$", "$..id", "$.a[*]", "$.a[?@.b]", "$.a[0:2]", "$.a[", "", "$['a','b']"]
)
def test_a_path_that_names_not_one_field_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"JSONPath|does not name one field"):
        FieldPaths({"id": [path]}, text_field="text", text_template=None)


@pytest.mark.parametrize("template", ["no field", "{", "a } b {c}", "{}", "{ }", "{{a}}", "{$..a}"])
def test_a_template_that_cannot_be_filled_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"text_template|does not name one field"):
        FieldPaths({}, text_field="text", text_template=template)


def test_the_text_has_one_source() -> None:
    with pytest.raises(ValueError, match=r"text_template and record\.fields\.text"):
        FieldPaths({"text": ["$.a"]}, text_field="text", text_template="{a}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
PATHS = st.lists(st.sampled_from(["a", "b", "c", 0, -1]), min_size=1, max_size=3).map(
    lambda steps: "$" + "".join(f"[{json.dumps(step).replace(chr(34), chr(39))}]" for step in steps)
)


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict | list) and value:
        return [leaf for one in (value.values() if isinstance(value, dict) else value) for leaf in leaves(one)]
    return [value]


@given(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), st.lists(PATHS, min_size=1, max_size=3))
def test_nothing_is_lost_and_nothing_is_made_up(content: dict[str, Any], paths: list[str]) -> None:
    arranged = arrange(content, {f"target_{number}": [path] for number, path in enumerate(paths)})
    before, after = [repr(leaf) for leaf in leaves(content)], [repr(leaf) for leaf in leaves(arranged)]
    empty = {repr({}), repr([])}
    assert set(before) - set(after) <= empty
    assert set(after) - set(before) <= empty
    assert content.keys() >= {name for name in arranged if not name.startswith("target_")}
    for number, path in enumerate(paths):
        assert arranged.get(f"target_{number}") == FieldPath.parse(path).value(content)
