"""The embedding engine by itself: chunk and embed, in the batches the pipeline makes, without Kafka and Milvus."""

from collections.abc import Mapping, Sequence
from typing import Any

from consumers.config import Settings
from consumers.wiring.documents import embedder
from pipeline.chunking import Chunker, ChunkingPolicy
from pipeline.embedding import Embedder
from pipeline.telemetry import configure_logging
from tests.bench.contender import Go, arguments, contend
from tests.bench.corpus import longer, read_documents


def main() -> None:
    """Load the model, then embed the documents of each job."""
    given = arguments()
    configure_logging("warning", "json")
    settings = Settings.model_validate(given["settings"])
    documents = read_documents(given["documents"])
    with embedder(settings) as model:
        chunker = Chunker(model.tokenizer, ChunkingPolicy(settings.chunking.max_tokens, settings.chunking.overlap))
        embed(chunker, model, [document.text for document in documents[:64]], settings.batch.max_records)

        def prepare(job: dict[str, Any]) -> Go:
            wanted = set(job["ids"])
            chosen = [document for document in documents if document.id in wanted]
            texts = [document.text for document in longer(chosen, job["times"])]
            return lambda: embed(chunker, model, texts, settings.batch.max_records)

        contend(prepare)


def embed(chunker: Chunker, model: Embedder, texts: Sequence[str], batch: int) -> Mapping[str, Any]:
    for start in range(0, len(texts), batch):
        chunked = chunker.chunk(texts[start : start + batch])
        model.embed([chunk for document in chunked for chunk in document])
    return {"records": len(texts), "dtype": model.dtype}


if __name__ == "__main__":
    main()
