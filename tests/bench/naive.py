"""The loop everybody writes: poll, encode, insert, commit. Nothing in it is tuned, and nothing made worse."""

import json
from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer
from pymilvus import MilvusClient
from sentence_transformers import SentenceTransformer

from tests.bench.contender import Go, arguments, contend
from tests.bench.corpus import read_documents


def main() -> None:
    """Load the model, then drain a topic for each job."""
    given = arguments()
    model = SentenceTransformer(given["model_folder"])
    client = MilvusClient(given["milvus"])
    model.encode([document.text for document in read_documents(given["documents"])[:64]], show_progress_bar=False)

    def prepare(job: dict[str, Any]) -> Go:
        dimension = model.get_embedding_dimension()
        client.create_collection(job["collection"], dimension=dimension, id_type="string", max_length=1024)
        return lambda: drain(given["kafka"], client, model, job)

    contend(prepare)


def drain(kafka: str, client: MilvusClient, model: SentenceTransformer, job: Mapping[str, Any]) -> Mapping[str, Any]:
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
        vectors = model.encode([record["text"] for record in records], show_progress_bar=False)
        rows = [{**record, "vector": vector} for record, vector in zip(records, vectors, strict=True)]
        client.insert(job["collection"], rows)
        consumer.commit()
        left -= len(records)
    consumer.close()
    return {"records": job["records"]}


if __name__ == "__main__":
    main()
