"""One record in, one operation out: identity, time, version, metadata, deletes."""

import pytest

from pipeline.intake import IntakeLimits, Reason, RecordMapping
from pipeline.records import MAX_METADATA_BYTES, Delete, Document, Operation, Position, Put, Rejected
from tests.unit.pipeline.intake.decoding import MAX_EVENT_AGE_MS, NOW_MS, SKEW_MS, decode, document, put, rejected

FULL = RecordMapping(version_field="v", tenant_field="org", delete_field="gone")


def test_a_whole_record() -> None:
    value = {
        "id": "a-1",
        "text": "two words",
        "event_time": "2026-11-22T11:00:00Z",
        "v": 7,
        "org": "acme",
        "gone": False,
        "rank": 3,
        "tags": ["x", {"y": None}],
    }
    assert decode(value, mapping=FULL) == Put(
        Position("docs", 3, 17),
        NOW_MS,
        Document("a-1", "two words", NOW_MS - 3_600_000, {"rank": 3, "tags": ["x", {"y": None}]}, "acme"),
        7,
    )


@pytest.mark.parametrize(
    ("given", "key", "doc_id"),
    [
        ("a-1", b"key", "a-1"),
        (" é\x00 ", None, " é\x00 "),
        (0, b"key", "0"),
        (-5, None, "-5"),
        (2**63, None, "9223372036854775808"),
        (10**25 + 1, None, "10000000000000000000000001"),
        (None, "clé".encode(), "clé"),
        (None, b"17", "17"),
    ],
)
def test_the_id_is_the_field_else_the_key(given: object, key: bytes | None, doc_id: str) -> None:
    assert document({"id": given, "text": "x"}, key).doc_id == doc_id


def test_without_id_field_and_key_a_record_in_append_mode_has_its_position_as_id() -> None:
    assert document({"text": "x"}, None, append=True).doc_id == "docs/3/17"
    assert document({"text": "x"}, b"", append=True).doc_id == "docs/3/17"
    assert document({"text": "x"}, b"key", append=True).doc_id == "key"
    assert document({"text": "x", "id": "a"}, None, append=True).doc_id == "a"


def test_a_text_record_has_its_key_as_id_and_the_kafka_timestamp_as_time() -> None:
    found = put("grüße\x00".encode(), timestamp_ms=NOW_MS - 5)
    assert found.document == Document("key", "grüße\x00", NOW_MS - 5)
    assert found.version is None


@pytest.mark.parametrize("given", [{"text": "x"}, {"text": "x", "event_time": None}])
def test_without_event_time_the_kafka_timestamp_counts(given: object) -> None:
    assert document(given, timestamp_ms=NOW_MS - 5).event_time == NOW_MS - 5


@pytest.mark.parametrize("in_record", [True, False])
def test_the_window_of_event_times_includes_its_ends(in_record: bool) -> None:
    def at(moment: int) -> Operation:
        if in_record:
            return decode({"text": "x", "event_time": moment})
        return decode({"text": "x"}, timestamp_ms=moment)

    first, last = NOW_MS - MAX_EVENT_AGE_MS, NOW_MS + SKEW_MS
    for moment, reason in [
        (first - 1, Reason.EVENT_TIME_TOO_OLD),
        (first, None),
        (last, None),
        (last + 1, Reason.EVENT_TIME_IN_FUTURE),
    ]:
        operation = at(moment)
        assert (operation.reason if isinstance(operation, Rejected) else None) == reason
        if reason is None:
            assert isinstance(operation, Put)
            assert operation.document.event_time == moment


def test_without_max_event_age_no_time_is_too_old() -> None:
    limits = IntakeLimits(1_000, SKEW_MS, None)
    assert document({"text": "x", "event_time": 0}, limits=limits).event_time == 0
    assert document({"text": "x", "event_time": "1969-12-31"}, limits=limits).event_time == -86_400_000


@pytest.mark.parametrize(
    ("given", "version"),
    [
        (0, 0),
        (-(2**63), -(2**63)),
        (2**63 - 1, 2**63 - 1),
        ("1970-01-01T00:00:01.5Z", 1_500_000),
        ("1969-12-31", -86_400_000_000),
    ],
)
def test_versions_are_integers_or_times_in_microseconds(given: object, version: int) -> None:
    assert put({"text": "x", "v": given}, mapping=RecordMapping(version_field="v")).version == version


@pytest.mark.parametrize(("given", "tenant"), [("acme", "acme"), (7, "7"), ("é" * 512, "é" * 512)])
def test_tenants(given: object, tenant: str) -> None:
    found = document({"text": "x", "org": given, "gone": None, "v": 1}, mapping=FULL)
    assert (found.tenant, found.metadata) == (tenant, {})


def test_metadata_of_a_declared_name_is_renamed_and_never_lost() -> None:
    names = ["chunk", "doc_id", "event_time", "id", "kafka_offset", "kafka_partition", "kafka_topic"]
    names += ["sparse", "tenant", "text", "vector", "$meta"]
    mapping = RecordMapping(id_field="key", text_field="body", time_field="at")
    assert document({"body": "x", **dict.fromkeys(names, 1)}, mapping=mapping).metadata == {
        f"meta_{name}": 1 for name in names
    }


@pytest.mark.parametrize(
    "names", [["chunk", "meta_chunk", "meta_meta_chunk"], ["meta_meta_chunk", "meta_chunk", "chunk"]]
)
def test_where_the_new_name_is_taken_the_record_s_own_fields_keep_theirs(names: list[str]) -> None:
    assert document({"text": "x", **{name: name for name in names}}).metadata == {
        "meta_chunk": "meta_chunk",
        "meta_meta_chunk": "meta_meta_chunk",
        "meta_meta_meta_chunk": "chunk",
    }


def test_configured_fields_are_consumed_and_the_default_names_become_metadata() -> None:
    mapping = RecordMapping(id_field="key", text_field="body", time_field="at")
    value = {"key": "k", "body": "x", "at": NOW_MS, "id": 1, "text": "other", "event_time": "whenever"}
    assert document(value, mapping=mapping) == Document(
        "k", "x", NOW_MS, {"meta_id": 1, "meta_text": "other", "meta_event_time": "whenever"}
    )


@pytest.mark.parametrize("name", ["a b", "a\u200cb", "\u00a0", "größe", "a.b", 'a"]\\', "n" * 70_000])
def test_any_printable_name_is_kept(name: str) -> None:
    value = {"text": "x", name: 1}
    if len(name) > MAX_METADATA_BYTES:
        assert rejected(value).reason == Reason.METADATA_TOO_LARGE
    else:
        assert document(value).metadata == {name: 1}


def test_numbers_of_metadata_at_the_limits_are_kept_exactly() -> None:
    numbers = {
        "low": -(2**63),
        "high": 2**63 - 1,
        "list": [2**53 + 1],
        "float": 1e300,
        "id_like": 1_859_999_999_999_999_999,
    }
    assert document({"text": "x", **numbers}).metadata == numbers


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "1" + "0" * 30])
@pytest.mark.parametrize("form", ["%s", "[%s]", '{"b":[1,%s]}'])
def test_an_integer_beyond_64_bits_is_refused_at_any_depth(number: str, form: str) -> None:
    refused = rejected(b'{"text":"x","a":%b}' % (form % number).encode())
    assert (refused.reason, refused.stage) == (Reason.INVALID_METADATA, "validate")
    assert '"a"' in refused.message


def test_a_float_of_that_size_is_kept() -> None:
    assert document(b'{"text":"x","a":1e30,"b":[-1e30]}').metadata == {"a": 1e30, "b": [-1e30]}


def test_a_null_value_deletes_the_document_of_the_key() -> None:
    assert decode(None, "é".encode()) == Delete(Position("docs", 3, 17), NOW_MS, "é")
    assert decode(b'{"schema": {}, "payload": null}') == Delete(Position("docs", 3, 17), NOW_MS, "key")


def test_a_true_delete_field_deletes_the_record_s_own_id_without_text_at_any_age() -> None:
    mapping = RecordMapping(delete_field="gone")
    value = {"id": "a", "gone": True, "event_time": 5, "text": None}
    assert decode(value, mapping=mapping) == Delete(Position("docs", 3, 17), NOW_MS, "a")
    full = decode({"gone": True, "org": "acme", "v": 9}, mapping=FULL)
    assert full == Delete(Position("docs", 3, 17), NOW_MS, "key", "acme", 9)


@pytest.mark.parametrize("flag", [False, None])
def test_a_delete_field_that_is_not_true_stores(flag: object) -> None:
    assert document({"text": "x", "gone": flag}, mapping=RecordMapping(delete_field="gone")).metadata == {}


def test_an_unconfigured_delete_field_is_metadata() -> None:
    assert document({"text": "x", "gone": True}).metadata == {"gone": True}
