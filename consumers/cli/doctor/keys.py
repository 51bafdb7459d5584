"""The check of `doctor` whether a topic keeps all records of a document in one Kafka partition."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from consumers.cli.doctor.findings import Findings
from consumers.config import Settings
from consumers.kafka import KafkaSettings, read_range
from consumers.wiring import documents
from pipeline.intake import quoted
from pipeline.records import KafkaPartition

KEY_SAMPLE = 2_000
"""Newest records of each topic whose keys are compared."""
_REKEY = "run `milvus-stream rekey --to TOPIC` and let ingest read that topic"


@dataclass(slots=True)
class KeySample:
    """What the newest records of a topic say about their keys."""

    records: int = 0
    without_key: int = 0
    other_key: int = 0
    """Records with another key than their document's id."""
    places: dict[tuple[str | None, str], set[int]] = field(default_factory=dict)
    """Kafka partitions of each document."""


def read_keys(settings: Settings, kafka: KafkaSettings, ranges: Mapping[KafkaPartition, tuple[int, int]]) -> KeySample:
    """Read which Kafka partitions the newest documents are in, and whether their keys name them."""
    identify = documents.decoder(settings).identify
    sample = KeySample()
    for record in read_range(kafka, newest(ranges, KEY_SAMPLE)):
        sample.records += 1
        sample.without_key += record.key is None
        identity = identify(record)
        if identity is not None:
            sample.other_key += record.key is not None and record.key != identity[1].encode()
            sample.places.setdefault(identity, set()).add(record.position.partition)
    return sample


def examine_keys(topic: str, sample: KeySample, findings: Findings) -> None:
    """Versions of one document must be in one Kafka partition: two workers can write them at the same instant."""
    of_newest = f"of the newest {sample.records} records"
    scattered = {identity: places for identity, places in sample.places.items() if len(places) > 1}
    if scattered:
        (_, doc_id), places = next(iter(scattered.items()))
        findings.warning(
            "records.keys",
            f"{topic}: {len(scattered)} of {len(sample.places)} documents {of_newest} are in several Kafka partitions, "
            f"for instance {quoted(doc_id)} in {' and '.join(map(str, sorted(places)))}: records without a key, keys "
            "other than ids, or producers with different partitioners (librdkafka's default is not Kafka's)",
            f"publish with the id as key and one partitioner (librdkafka: partitioner=murmur2_random); or {_REKEY}",
        )
    elif sample.without_key:
        findings.warning(
            "records.keys",
            f"{topic}: {sample.without_key} {of_newest} have no key: versions of one document can then be in different "
            "Kafka partitions",
            f"publish with the document's id as the key, or {_REKEY}",
        )
    elif sample.other_key:
        findings.warning(
            "records.keys",
            f"{topic}: {sample.other_key} {of_newest} have another key than the id of their document: its versions "
            "are in one Kafka partition only as long as its key stays the same",
            f"publish with the document's id as the key, or {_REKEY}",
        )
    else:
        findings.ok("records.keys", f"{topic}: every document {of_newest} is in one Kafka partition")


def newest(ranges: Mapping[KafkaPartition, tuple[int, int]], records: int) -> dict[KafkaPartition, tuple[int, int]]:
    """The ends of the ranges, with so many offsets in all."""
    per_partition = -(-records // max(1, len(ranges)))
    return {name: (max(start, end - per_partition), end) for name, (start, end) in ranges.items()}
