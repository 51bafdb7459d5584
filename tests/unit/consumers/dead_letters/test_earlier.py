"""Which dead letters count as sent already."""

import pytest

from consumers.dead_letters.earlier import EarlierDeadLetters
from consumers.dead_letters.envelope import OutgoingDeadLetter, decode_dead_letter, encode_dead_letter
from pipeline.records import Position, Rejected, SourceRecord

RECORD = SourceRecord(Position("documents", 0, 7), 1000, b"k", b'{"id": "a"}', (), "topic id")


def dead_letter(group: str, reason: str) -> OutgoingDeadLetter:
    rejected = Rejected(RECORD, "validate", reason, f"the reason of {group}")
    return encode_dead_letter(rejected, pipeline=group, worker="w")


def test_another_group_sends_its_own() -> None:
    sent = dead_letter("appending", "delete_in_append_mode")
    stored = SourceRecord(Position("documents.dlq", 0, 0), sent.timestamp_ms, sent.key, sent.value, sent.headers, "x")
    earlier = EarlierDeadLetters(lambda: [decode_dead_letter(stored)])
    assert earlier.holds(dead_letter("appending", "another since its settings changed"))
    assert not earlier.holds(dead_letter("keeping", "delete_in_append_mode"))


def test_what_this_process_has_sent_is_remembered_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.dead_letters.earlier._MOST_RECORDS", 2)
    earlier = EarlierDeadLetters(lambda: [])
    sent = [dead_letter(group, "bad_time") for group in "abc"]
    for each in sent:
        earlier.confirmed(each)
    assert [earlier.holds(each) for each in sent] == [False, True, True]
