"""The loop of somebody who knows OpenVINO: poll, embed in sorted batches, upsert, commit. No ledger, no chunks."""

from functools import partial
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient

from pipeline.embedding import available_cpus
from tests.bench.contender import Go, arguments, contend
from tests.bench.corpus import read_documents
from tests.bench.plain_openvino import PlainOpenVino
from tests.bench.poll_loop import drain

_BATCH = 16


def main() -> None:
    """Compile the model, then drain a topic for each job."""
    given = arguments()
    model = PlainOpenVino(Path(given["prepared"]), available_cpus())
    client = MilvusClient(given["milvus"])
    model.encode([document.text for document in read_documents(given["documents"])[:64]], _BATCH)

    def prepare(job: dict[str, Any]) -> Go:
        client.create_collection(job["collection"], dimension=model.dimension, id_type="string", max_length=1024)
        store = partial(client.upsert, job["collection"])
        return lambda: drain(given["kafka"], job, lambda texts: model.encode(texts, _BATCH), store)

    contend(prepare)


if __name__ == "__main__":
    main()
