"""The loop of somebody who knows OpenVINO: poll, embed in sorted batches, upsert, commit. No ledger, no chunks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer
from pymilvus import MilvusClient

from pipeline.embedding import available_cpus
from tests.bench.contender import Go, arguments, contend
from tests.bench.corpus import read_documents
from tests.bench.plain_openvino import PlainOpenVino

_BATCH = 16


def main() -> None:
    """Compile the model, then drain a topic for each job."""
    given = arguments()
    model = PlainOpenVino(Path(given["prepared"]), available_cpus())
    client = MilvusClient(given["milvus"])
    model.encode([document.text for document in read_documents(given["documents"])[:64]], _BATCH)

    def prepare(job: dict[str, Any]) -> Go:
        client.create_collection(job["collection"], dimension=model.dimension, id_type="string", max_length=1024)
        return lambda: drain(given["kafka"], client, model, job)

    contend(prepare)


def drain(kafka: str, client: MilvusClient, model: PlainOpenVino, job: Mapping[str, Any]) -> Mapping[str, Any]:
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
        vectors = model.encode([record["text"] for record in records], _BATCH)
        rows = [{**record, "vector": vector} for record, vector in zip(records, vectors, strict=True)]
        client.upsert(job["collection"], rows)
        consumer.commit()
        left -= len(records)
    consumer.close()
    return {"records": job["records"]}


if __name__ == "__main__":
    main()
