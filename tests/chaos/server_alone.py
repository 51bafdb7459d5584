"""`python -m tests.chaos.server_alone`: does Milvus by itself keep every delete? One client, no fault, no code of ours.

Upserts and deletes go on while the collection is flushed every few seconds; then each Milvus partition is compared with
what was written, as it is and after the collection was loaded again.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pymilvus import DataType, MilvusClient

from consumers.local import LocalMilvusStandalone
from consumers.local.milvus import STANDALONE_VERSION
from tests.support.milvus import milvus_client

PARTITIONS = ("d1", "d2", "d3", "d4")
NAME = "alone"
DIMENSION = 32
_SECONDS, _FLUSH_EVERY_S = 90.0, 2.0
"""Long and often enough to show on most runs what a run of chaos meets now and then."""


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
    with tempfile.TemporaryDirectory(prefix="alone-") as folder:
        found = measure(Path(folder), chosen.seconds, chosen.flush_every, compacts=not chosen.without_compaction)
    sys.stdout.write(
        json.dumps({"milvus": STANDALONE_VERSION, "compaction": not chosen.without_compaction, **found}) + "\n"
    )
    return 1 if any(any(each.values()) for each in found.values()) else 0


def measure(folder: Path, seconds: float, flush_every_s: float, *, compacts: bool) -> dict[str, dict[str, int]]:
    """Differences as the server shows them after the writes, and after the collection was loaded again."""
    kind = Compacting if compacts else LocalMilvusStandalone
    with kind(folder) as uri:
        client = milvus_client(uri)
        _create(client)
        written = _write(client, uri, seconds, flush_every_s)
        first = _differences(client, written)
        client.release_collection(NAME)
        client.load_collection(NAME)
        return {"as_it_is": first, "loaded_again": _differences(client, written)}


def unexplained(kinds: Collection[str], folder: Path) -> list[str]:
    """Those kinds of differences, shown until a reload, that this build of the server does not show by itself.

    It shows by itself what it has deleted or replaced: a document's older rows, and so a ledger that differs from the
    rows. Rows that are missing it has to lose by itself, too.
    """
    return not_shown(kinds, measure(folder, _SECONDS, _FLUSH_EVERY_S, compacts=False)["as_it_is"])


def not_shown(kinds: Collection[str], shown: Mapping[str, int]) -> list[str]:
    """Those kinds of a verdict for which the server alone has shown nothing that explains them."""
    extra = shown["deleted_and_there"] + shown["older"] + shown["copies"]
    return sorted(kind for kind in kinds if not (shown["missing"] if kind == "lost" else extra))


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
        flusher = milvus_client(uri)
        while not ending.wait(flush_every):
            flusher.flush(NAME, timeout=60)

    threading.Thread(target=flush, daemon=True).start()
    rng = random.Random(1)
    written: dict[str, dict[str, int]] = {partition: {} for partition in PARTITIONS}
    version, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        for partition in PARTITIONS:
            version += 1
            rows = [_row(rng, partition, version) for _ in range(20)]
            unique = {row["id"]: row for row in rows}
            client.upsert(NAME, list(unique.values()), partition_name=partition, timeout=20)
            written[partition].update(dict.fromkeys(unique, version))
            gone = rng.sample(list(written[partition]), 3)
            client.delete(NAME, filter='id in ["' + '","'.join(gone) + '"]', partition_name=partition, timeout=20)
            for each in gone:
                del written[partition][each]
    ending.set()
    client.flush(NAME, timeout=60)
    return written


def _row(rng: random.Random, partition: str, version: int) -> dict[str, Any]:
    number = max(0, 3 * version - rng.randrange(200)) if rng.random() < 0.5 else rng.randrange(3 * version)
    identifier = blake2b(f"{partition}/{number}".encode(), digest_size=20).hexdigest()
    return {"id": identifier, "version": version, "vector": [rng.random() for _ in range(DIMENSION)]}


def _differences(client: MilvusClient, written: dict[str, dict[str, int]]) -> dict[str, int]:
    """Rows that are missing, deleted and there, of an older version; and copies that only the server's count shows."""
    total = {"missing": 0, "deleted_and_there": 0, "older": 0, "copies": 0}
    for partition, wanted in written.items():
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
