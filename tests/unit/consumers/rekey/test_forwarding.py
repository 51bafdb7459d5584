"""What a forwarded record keeps of the one that was read."""

from typing import Any

import pytest

from consumers.kafka import KafkaSettings
from consumers.rekey.forwarding import Forwarded, Forwarder
from pipeline.records import Position, SourceRecord

HEADERS = (("__key_schema_id", b"\0\0\0\0\1"), ("__value_schema_id", b"\0\0\0\0\2"), ("trace", None))


class _Queue:
    """Takes what a producer would send."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def send(self, _topic: str, **record: Any) -> None:
        self.sent.append(record)


@pytest.mark.parametrize(
    ("key", "names"),
    [
        (b"k", ["__key_schema_id", "__value_schema_id", "trace"]),
        (b"doc", ["__value_schema_id", "trace"]),
    ],
)
def test_the_schema_of_a_key_goes_with_its_key(key: bytes, names: list[str]) -> None:
    """Under the header of the key before, the text "doc" would be read as Avro."""
    record = SourceRecord(Position("documents", 0, 1), 1, b"k", b"v", HEADERS)
    queue, source = _Queue(), None
    Forwarder(KafkaSettings("", (), "g"), "keyed", source)._send(queue, Forwarded(record, key))  # type: ignore[arg-type]
    assert [name for name, _ in queue.sent[0]["headers"]] == names
