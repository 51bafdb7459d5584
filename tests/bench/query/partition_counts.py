"""What the number of Milvus partitions costs a search of one day."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pymilvus import MilvusClient

from pipeline.embedding import EmbeddingSettings, load_embedder
from tests.bench.query.clients import p50_ms, search_client
from tests.bench.query.latency import FIELDS, LIMIT, serving
from tests.bench.report import Target, say
from tests.bench.stage import Stage

COUNTS = (1, 32, 256, 1000)
MODEL = "hash:384"
ROWS = 1_000
"""Documents of the day that is searched; of every other day there is one."""
_ROUNDS, _SEARCHES, _WARM_UP = 4, 50, 10
"""So many searches in a row of each collection, after some that do not count, and all of it so many times."""
_WANTED_SPREAD, _WANTED_ABOVE_MS = 1.3, 3.0


def measure(made: Stage) -> list[dict[str, Any]]:
    """A collection and a query worker for each count; the searches go through all of them, round by round."""
    day = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
    time_range = {"from": f"{day:%Y-%m-%d}", "to": f"{day + timedelta(days=1):%Y-%m-%d}"}
    model = load_embedder(EmbeddingSettings(MODEL))
    raw = MilvusClient(made.milvus)
    taken: dict[int, list[float]] = {count: [] for count in COUNTS}
    bare: dict[int, list[float]] = {count: [] for count in COUNTS}
    with made.names() as names, ExitStack() as stack:
        collections, clients = {}, {}
        for count in COUNTS:
            collections[count] = _filled(made, names.job(names.topic(), 0), count, day)
            settings = {
                "milvus": {"uri": made.milvus, "collection": collections[count]},
                "embedding": {"model": MODEL},
                "query": {"port": 0},
            }
            folder = made.folder / f"serve-{count}"
            folder.mkdir()
            clients[count] = stack.enter_context(search_client(stack.enter_context(serving(folder, settings))))
        say(f"{_ROUNDS * _SEARCHES} searches of one day in each")
        for each in range(_ROUNDS):
            for count in COUNTS:
                texts = [f"harbour lantern {each} {number}" for number in range(_WARM_UP + _SEARCHES)]
                body = {"limit": LIMIT, "mode": "dense", "time": time_range}
                taken[count] += [clients[count].seconds({"query": text, **body}) for text in texts][_WARM_UP:]
                vectors = [model.embed_queries([text]) for text in texts]
                bare[count] += [_bare_s(raw, collections[count], day, vector) for vector in vectors][_WARM_UP:]
    raw.close()
    model.close()
    return [
        {"Milvus partitions": count, "p50 ms": p50_ms(taken[count]), "raw search p50 ms": p50_ms(bare[count])}
        for count in COUNTS
    ]


def _bare_s(client: MilvusClient, collection: str, day: datetime, vectors: NDArray[np.float32]) -> float:
    """Seconds of one search of pymilvus in the partition of the day."""
    began = time.perf_counter()
    client.search(
        collection,
        vectors,
        limit=LIMIT,
        output_fields=FIELDS,
        anns_field="vector",
        partition_names=[f"d{day:%Y%m%d}"],
    )
    return time.perf_counter() - began


def _filled(made: Stage, job: Mapping[str, Any], count: int, day: datetime) -> str:
    """Fill a collection of so many Milvus partitions by an ingest worker; returns its name."""
    say(f"filling a collection of {count} Milvus partitions")
    made.publish(job["topic"], _records(count, day))
    settings = {
        "kafka": {"bootstrap_servers": made.kafka, "topics": [job["topic"]], "group_id": job["group"]},
        "milvus": {"uri": made.milvus, "collection": job["collection"], "durability": "ack"},
        "embedding": {"model": MODEL},
        "partitioning": {"by": "day", "tiers": [], "max_partitions": 2 * max(COUNTS)},
        "telemetry": {"port": 0, "log_level": "warning"},
    }
    config = made.folder / f"fill-{count}.yaml"
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "consumers.cli", "ingest", "-c", str(config), "--until-caught-up"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return str(job["collection"])


def _records(count: int, day: datetime) -> Iterator[tuple[bytes, bytes]]:
    days = [day] * ROWS + [day - timedelta(days=back) for back in range(1, count)]
    for number, when in enumerate(days):
        text = f"harbour {number} lantern {number % 97} copper {number % 89}"
        document = {"id": str(number), "text": text, "event_time": when.isoformat()}
        yield str(number).encode(), json.dumps(document).encode()


def targets(rows: list[dict[str, Any]]) -> list[Target]:
    """How far the counts are apart, and what the program adds with the most of them."""
    found = [row["p50 ms"] for row in rows]
    above = found[-1] - rows[-1]["raw search p50 ms"]
    return [
        Target(
            f"p50 of one day, slowest / fastest of {COUNTS} partitions", max(found) / min(found), _WANTED_SPREAD, True
        ),
        Target(f"ms above one raw search at {COUNTS[-1]} partitions", above, _WANTED_ABOVE_MS, True),
    ]
