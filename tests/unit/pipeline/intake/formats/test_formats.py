"""From the bytes of a value to an object or a text."""

import json
from typing import cast

import pytest

from pipeline.errors import RecordRejected
from pipeline.intake import Decoder, RecordMapping
from pipeline.intake.content import Content, Format
from pipeline.intake.formats import REGISTRY
from pipeline.intake.formats.values import MAX_DEPTH
from pipeline.intake.reasons import Reason
from pipeline.records import Document, Position, Put, SourceRecord
from tests.unit.pipeline.intake.decoding import LIMITS, NOW_MS, record_of


def parse(value: bytes, form: str) -> Content:
    return REGISTRY[form].read(record_of(value))


def _refusal(value: bytes, form: str = "auto") -> RecordRejected:
    with pytest.raises(RecordRejected) as caught:
        parse(value, form)
    return caught.value


@pytest.mark.parametrize(
    ("value", "form", "parsed"),
    [
        (b'{"a": 1}', "auto", {"a": 1}),
        (b'{"a": 1}', "json", {"a": 1}),
        (b'{"a": 1}', "text", '{"a": 1}'),
        (b' \r\n\t{"a": 1} ', "auto", {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1}', "auto", {"a": 1}),
        (b'\xef\xbb\xbf{"a": 1}', "json", {"a": 1}),
        (b"12 o'clock", "auto", "12 o'clock"),
        (b"[note] true", "auto", "[note] true"),
        (b'"Yes", she said', "auto", '"Yes", she said'),
        (b"NaN", "auto", "NaN"),
        (b"Infinity War", "auto", "Infinity War"),
        (b"true story", "auto", "true story"),
        (b"[1]", "text", "[1]"),
        (b"12", "text", "12"),
        (b"", "auto", ""),
        ("a\x00 😀".encode(), "auto", "a\x00 😀"),
        (b'{"a": 1, "a": 2}', "auto", {"a": 2}),
        (b'{"a": "\\u0000\\ud83d\\ude00"}', "auto", {"a": "\x00😀"}),
    ],
)
def test_what_a_value_is(value: bytes, form: str, parsed: object) -> None:
    assert parse(value, form) == parsed


@pytest.mark.parametrize("value", [b'{"a": 1', b"{a: 1}", b"{not json at all", b'{"a": 1} {"b": 2}', b"{'a': 1}"])
def test_in_auto_what_begins_like_an_object_is_never_taken_as_text(value: bytes) -> None:
    assert _refusal(value).reason == Reason.INVALID_JSON


@pytest.mark.parametrize("value", [b"[]", b"[1]", b'"x"', b" 42\n", b"-1.5e3", b"true", b"null", b"\xef\xbb\xbf[1]"])
@pytest.mark.parametrize("form", ["auto", "json"])
def test_json_that_is_no_object_never_becomes_a_text(value: bytes, form: str) -> None:
    assert _refusal(value, form).reason == Reason.NOT_AN_OBJECT


@pytest.mark.parametrize("form", ["auto", "json"])
def test_of_a_list_of_objects_the_message_says_what_to_produce(form: str) -> None:
    assert "one record for each document" in str(_refusal(b'[{"id": 1}, {"id": 2}]', form))
    assert "one record" not in str(_refusal(b"[1, 2]", form))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"[" * 2_000 + b"]" * 2_000, Reason.NESTED_TOO_DEEP),
        (b"9" * 5_000, Reason.NOT_FINITE),
        (b'"\\ud800"', Reason.LONE_SURROGATE),
    ],
)
def test_json_that_no_parser_can_hold_is_no_text(value: bytes, reason: Reason) -> None:
    assert _refusal(value).reason == reason


@pytest.mark.parametrize("form", ["auto", "json", "text"])
def test_a_schema_registry_s_format_is_named(form: str) -> None:
    assert _refusal(b"\x00\x00\x00\x00\x07\x02a", form).reason == Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("schema", [None, {}, {"type": "struct", "fields": []}, "any"])
def test_a_connect_envelope_is_unwrapped(schema: object) -> None:
    def enveloped(payload: object) -> bytes:
        return json.dumps({"schema": schema, "payload": payload}).encode()

    assert parse(enveloped({"text": "x"}), "json") == {"text": "x"}
    assert parse(enveloped(None), "json") is None
    others: list[object] = [1, "x", [], True]
    for payload in others:
        assert _refusal(enveloped(payload), "json").reason == Reason.NOT_AN_OBJECT


@pytest.mark.parametrize("value", [{"schema": 1}, {"payload": {"a": 1}}, {"schema": 1, "payload": {}, "text": "x"}])
def test_other_keys_make_no_envelope(value: dict[str, object]) -> None:
    assert parse(json.dumps(value).encode(), "json") == value


def _nested(levels: int, opening: bytes, closing: bytes, inside: bytes = b"") -> bytes:
    return b'{"a":' + opening * (levels - 1) + inside + closing * (levels - 1) + b"}"


@pytest.mark.parametrize(
    ("opening", "closing", "inside"), [(b"[", b"]", b""), (b'{"a":', b"}", b"1"), (b"[", b"]", b"1e30")]
)
def test_nesting_is_counted_with_the_outermost_object(opening: bytes, closing: bytes, inside: bytes) -> None:
    assert isinstance(parse(_nested(MAX_DEPTH, opening, closing, inside), "json"), dict)
    for levels in (MAX_DEPTH + 1, 900, 1_023, 1_024, 1_025, 100_000):
        assert _refusal(_nested(levels, opening, closing, inside), "json").reason == Reason.NESTED_TOO_DEEP


@pytest.mark.parametrize("levels", [33, 900, 1_010])
def test_deep_nesting_beside_a_number_for_the_slower_parser_is_refused(levels: int) -> None:
    """The slower parser is recursive: such a record once ended in a RecursionError."""
    large, deep = b'"n":12345678901234567890123', b'"a":' + b"[" * levels + b"]" * levels
    for pair in (large + b"," + deep, deep + b"," + large):
        assert _refusal(b"{" + pair + b"}", "json").reason == Reason.NESTED_TOO_DEEP


def test_a_field_given_twice_may_be_deep_where_it_does_not_count() -> None:
    deep = b"[" * 1_000 + b"]" * 1_000
    assert parse(b'{"a":%b,"a":1}' % deep, "json") == {"a": 1}
    assert _refusal(b'{"a":%b,"a":1,"n":%b}' % (deep, b"1" * 30), "json").reason == Reason.NESTED_TOO_DEEP


def test_the_depth_of_a_connect_schema_is_no_matter_unless_the_slower_parser_is_needed() -> None:
    enveloped = b'{"schema":' + b"[" * 1_000 + b"]" * 1_000 + b',"payload":{"n":%b}}'
    assert parse(enveloped % b"1", "json") == {"n": 1}
    assert _refusal(enveloped % (b"1" * 30), "json").reason == Reason.NESTED_TOO_DEEP


@pytest.mark.parametrize("digits", [18, 19, 20, 30, 300])
@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("form", ["%s", "[[%s]]", '{"b":%s}'])
def test_integers_keep_every_digit(digits: int, sign: str, form: str) -> None:
    written = form % (sign + "9" * digits)
    assert parse(b'{"a":%b}' % written.encode(), "json") == {"a": json.loads(written)}


def test_an_integer_too_long_for_any_number_is_refused() -> None:
    """Python itself refuses to read more than 4,300 digits, with a ValueError."""
    assert _refusal(b'{"a":' + b"9" * 5_000 + b"}").reason == Reason.NOT_FINITE


class FromHeaders:
    """A format whose document is in key, headers and topic, as with CloudEvents in binary mode."""

    def read(self, record: SourceRecord) -> Content:
        headers = {name: (value or b"").decode() for name, value in record.headers}
        return {"id": (record.key or b"").decode(), "text": headers["subject"], "topic": record.position.topic}


def test_a_format_sees_the_whole_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast(dict[str, Format], REGISTRY), "headers", FromHeaders())
    record = SourceRecord(Position("docs", 0, 1), NOW_MS, b"k", b"\x00\xff", (("subject", b"from a header"),))
    operation = Decoder(RecordMapping(format="headers"), LIMITS, append=False).decode(record, NOW_MS)
    assert isinstance(operation, Put)
    assert operation.document == Document("k", "from a header", NOW_MS, {"topic": "docs"})
