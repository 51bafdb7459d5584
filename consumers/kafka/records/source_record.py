"""The conversion of kafka-python's records into those of the pipeline."""

from typing import Any

from consumers.kafka.records.batches import MarkedHeaders
from pipeline.records import Position, SourceRecord


def source_record(raw: Any, topic_id: str = "") -> SourceRecord:
    """Return a record of kafka-python as a SourceRecord; `topic_id` "" where it is not known."""
    # Tuple unpacking reads kafka-python's record about twice as fast as its attributes.
    topic, partition, _, offset, timestamp, _, key, value, headers, _, _, _, _ = raw
    defect = headers.defect if type(headers) is MarkedHeaders else None
    return SourceRecord(
        Position(topic, partition, offset), timestamp, key, value, tuple(headers) if headers else (), topic_id, defect
    )
