"""The loop everybody writes: poll, encode, insert, commit. Nothing in it is tuned, and nothing made worse."""

from functools import partial
from typing import Any

from pymilvus import MilvusClient
from sentence_transformers import SentenceTransformer

from tests.bench.contender import Go, arguments, contend
from tests.bench.corpus import read_documents
from tests.bench.poll_loop import drain


def main() -> None:
    """Load the model, then drain a topic for each job."""
    given = arguments()
    model = SentenceTransformer(given["model_folder"])
    client = MilvusClient(given["milvus"])
    model.encode([document.text for document in read_documents(given["documents"])[:64]], show_progress_bar=False)

    def prepare(job: dict[str, Any]) -> Go:
        dimension = model.get_embedding_dimension()
        client.create_collection(job["collection"], dimension=dimension, id_type="string", max_length=1024)
        store = partial(client.insert, job["collection"])
        return lambda: drain(given["kafka"], job, partial(model.encode, show_progress_bar=False), store)

    contend(prepare)


if __name__ == "__main__":
    main()
