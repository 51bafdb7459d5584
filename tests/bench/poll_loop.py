"""The loop of the contenders that are no worker: poll, encode, store, commit."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kafka import KafkaConsumer

Rows = list[dict[str, Any]]


def drain(
    kafka: str, job: Mapping[str, Any], encode: Callable[[list[str]], Iterable[Any]], store: Callable[[Rows], object]
) -> Mapping[str, Any]:
    """Read the job's records, and store each with the vector of its text."""
    consumer = KafkaConsumer(
        job["topic"],
        bootstrap_servers=kafka,
        group_id=job["group"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    left = job["records"]
    while left:
        records = [json.loads(message.value) for part in consumer.poll(timeout_ms=1000).values() for message in part]
        if not records:
            continue
        vectors = encode([record["text"] for record in records])
        store([{**record, "vector": vector} for record, vector in zip(records, vectors, strict=True)])
        consumer.commit()
        left -= len(records)
    consumer.close()
    return {"records": job["records"]}
