"""Decoding one record in one line."""

import json
from typing import Any

from pipeline.intake import Decoder, IntakeLimits, RecordMapping
from pipeline.records import Document, Operation, Put, Rejected, SourceRecord
from tests.support.documents import source_record

NOW_MS = 1_795_348_800_000
"""2026-11-22T12:00:00Z"""
SKEW_MS = 600_000
MAX_EVENT_AGE_MS = 30 * 86_400_000
LIMITS = IntakeLimits(max_record_bytes=200_000, future_skew_ms=SKEW_MS, max_event_age_ms=MAX_EVENT_AGE_MS)


def record_of(value: object, key: bytes | None = b"key", timestamp_ms: int = NOW_MS) -> SourceRecord:
    raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return source_record(raw, key, at=("docs", 3, 17), timestamp_ms=timestamp_ms)


def decode(
    value: object,
    key: bytes | None = b"key",
    *,
    mapping: RecordMapping | None = None,
    append: bool = False,
    timestamp_ms: int = NOW_MS,
    limits: IntakeLimits = LIMITS,
) -> Operation:
    return Decoder(mapping or RecordMapping(), limits, append=append).decode(
        record_of(value, key, timestamp_ms), NOW_MS
    )


def put(value: object, key: bytes | None = b"key", **options: Any) -> Put:
    operation = decode(value, key, **options)
    assert isinstance(operation, Put), operation
    return operation


def document(value: object, key: bytes | None = b"key", **options: Any) -> Document:
    return put(value, key, **options).document


def rejected(value: object, key: bytes | None = b"key", **options: Any) -> Rejected:
    operation = decode(value, key, **options)
    assert isinstance(operation, Rejected), operation
    return operation
