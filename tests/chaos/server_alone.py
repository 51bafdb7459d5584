"""`python -m tests.chaos.server_alone`: does Milvus by itself keep every delete? One client, no fault, no code of ours.

Upserts and deletes go on while the collection is flushed every few seconds; then each Milvus partition is compared with
what was asked for, as it is and after the collection was loaded anew.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pymilvus import DataType, MilvusClient

from consumers.local import LocalMilvusStandalone

PARTITIONS = ("d1", "d2", "d3", "d4")
NAME = "alone"
DIMENSION = 32


class Compacting(LocalMilvusStandalone):
    """A server as it comes."""

    compacts = True


def main() -> int:
    """One run on a server of its own; exit 1 if it lost a delete."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.server_alone", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--flush-every", type=float, default=3.0, help="seconds")
    parser.add_argument("--without-compaction", action="store_true")
    chosen = parser.parse_args()
    kind = LocalMilvusStandalone if chosen.without_compaction else Compacting
    with tempfile.TemporaryDirectory(prefix="alone-") as folder, kind(Path(folder)) as uri:
        client = MilvusClient(uri, dedicated=True)
        _create(client)
        asked = _write(client, uri, chosen.seconds, chosen.flush_every)
        first = _differences(client, asked)
        client.release_collection(NAME)
        client.load_collection(NAME)
        found = {"as_it_is": first, "loaded_anew": _differences(client, asked)}
    sys.stdout.write(json.dumps({"milvus": "2.3.5", "compaction": not chosen.without_compaction, **found}) + "\n")
    return 1 if any(any(each.values()) for each in found.values()) else 0


def _create(client: MilvusClient) -> None:
    schema = client.create_schema(enable_dynamic_field=False)
    schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
    schema.add_field("version", DataType.INT64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSION)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type="COSINE", params={"M": 16, "efConstruction": 200})
    client.create_collection(NAME, schema=schema, index_params=index)
    for partition in PARTITIONS:
        client.create_partition(NAME, partition)


def _write(client: MilvusClient, uri: str, seconds: float, flush_every: float) -> dict[str, dict[str, int]]:
    """What must be there: Milvus partition -> id -> version."""
    ending = threading.Event()

    def flush() -> None:
        flusher = MilvusClient(uri, dedicated=True)
        while not ending.wait(flush_every):
            flusher.flush(NAME, timeout=60)

    threading.Thread(target=flush, daemon=True).start()
    rng = random.Random(1)
    asked: dict[str, dict[str, int]] = {partition: {} for partition in PARTITIONS}
    version, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        for partition in PARTITIONS:
            version += 1
            rows = [_row(rng, partition, version) for _ in range(20)]
            unique = {row["id"]: row for row in rows}
            client.upsert(NAME, list(unique.values()), partition_name=partition, timeout=20)
            asked[partition].update(dict.fromkeys(unique, version))
            gone = rng.sample(list(asked[partition]), 3)
            client.delete(NAME, filter='id in ["' + '","'.join(gone) + '"]', partition_name=partition, timeout=20)
            for each in gone:
                del asked[partition][each]
    ending.set()
    client.flush(NAME, timeout=60)
    return asked


def _row(rng: random.Random, partition: str, version: int) -> dict[str, Any]:
    number = max(0, 3 * version - rng.randrange(200)) if rng.random() < 0.5 else rng.randrange(3 * version)
    identifier = blake2b(f"{partition}/{number}".encode(), digest_size=20).hexdigest()
    return {"id": identifier, "version": version, "vector": [rng.random() for _ in range(DIMENSION)]}


def _differences(client: MilvusClient, asked: dict[str, dict[str, int]]) -> dict[str, int]:
    """Rows that are missing, deleted and there, of an older version; and copies that only the server's count shows."""
    total = {"missing": 0, "deleted_and_there": 0, "older": 0, "copies": 0}
    for partition, wanted in asked.items():
        found: dict[str, int] = {}
        for digit in "0123456789abcdef":
            rows = client.query(
                NAME,
                filter=f'id >= "{digit}" and id < "{digit}g"',
                output_fields=["version"],
                partition_names=[partition],
                consistency_level="Strong",
            )
            found.update({row["id"]: row["version"] for row in rows})
        counted = client.query(
            NAME, filter="", output_fields=["count(*)"], partition_names=[partition], consistency_level="Strong"
        )
        total["missing"] += len(wanted.keys() - found.keys())
        total["deleted_and_there"] += len(found.keys() - wanted.keys())
        total["older"] += sum(found.get(each, version) != version for each, version in wanted.items())
        total["copies"] += counted[0]["count(*)"] - len(found)
    return total


if __name__ == "__main__":
    sys.exit(main())
