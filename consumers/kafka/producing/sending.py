"""Sending of a record exactly as it was: a missing key, an empty key and a null value are kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kafka import KafkaProducer
from kafka.serializer import Serializer


@dataclass(frozen=True, slots=True)
class _Key:
    raw: bytes | None


class NullableKey(Serializer):  # type: ignore[misc]  # kafka-python ships no types
    """The key serializer of a producer that is given to `send_record`.

    KafkaProducer.send refuses a record without key and value; a key that serialises to nothing passes.
    """

    def serialize(self, topic: str, headers: Any, data: _Key) -> bytes | None:
        """Return the key's bytes, None for no key."""
        return data.raw


def send_record(
    producer: KafkaProducer,
    topic: str,
    key: bytes | None,
    value: bytes | None,
    *,
    headers: Sequence[tuple[str, bytes]],
    timestamp_ms: int,
    partition: int | None = None,
) -> Any:
    """Queue one record and return its future; a negative timestamp means now. Raises kafka-python's errors."""
    return producer.send(
        topic,
        key=_Key(key),
        value=value,
        headers=list(headers),
        partition=partition,
        timestamp_ms=timestamp_ms if timestamp_ms >= 0 else None,
    )
